"""Train any PyTorch model with the tensors saved for backward stored in 2 to 8 bits; the forward stays exact."""

from __future__ import annotations

from .bench.check import check
from .chunk.with_loss import with_loss
from .config import Config
from .convert import convert, restore
from .errors import ApproxFxError, PassFailed
from .explain import explain, view
from .report.data import Report
from .report.registry import report
from .rounding import load_rounding_state, rounding_state
from .version import __version__

__all__ = [
    "ApproxFxError",
    "Config",
    "PassFailed",
    "Report",
    "__version__",
    "check",
    "convert",
    "explain",
    "load_rounding_state",
    "report",
    "restore",
    "rounding_state",
    "view",
    "with_loss",
]
