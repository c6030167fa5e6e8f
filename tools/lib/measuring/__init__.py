"""Code that the measuring commands share: running measurements, arithmetic on results, pages and plots."""
