"""Tests, in rooms as the package's; `support` holds what several of them use."""
