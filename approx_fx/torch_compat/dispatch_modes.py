"""torch.utils._python_dispatch: run ops unseen by the modes that a user or torch.utils.checkpoint has entered."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch.utils._python_dispatch import _disable_current_modes


def undispatched() -> AbstractContextManager[Any]:
    """Context in which no TorchDispatchMode sees an op."""
    return _disable_current_modes()
