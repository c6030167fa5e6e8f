"""Train any PyTorch model with the tensors saved for backward stored in 2 to 8 bits; the forward stays exact."""

from __future__ import annotations

from .config import Config
from .convert import convert
from .errors import ApproxFxError, PassFailed
from .explain import explain
from .report import Report, report

__all__ = ["ApproxFxError", "Config", "PassFailed", "Report", "convert", "explain", "report"]
__version__ = "0.1.0"
