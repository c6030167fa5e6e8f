"""view: explain a model, and write the picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..explain import explain
from ..explained import Explained


def view(
    model: nn.Module, *inputs: Any, path: str | Path | None = None, dtype: torch.dtype | None = None, **options: Any
) -> Explained:
    """Write an HTML file that shows what training `model(*inputs)` saves for backward; returns the report.

    Nothing is run, see `explain`, which takes the same arguments. path: default approx_fx.html.
    Raises ApproxFxError as `explain` does, and if bokeh is missing.
    """
    report = explain(model, *inputs, dtype=dtype, **options)
    report.save_html(path if path is not None else "approx_fx.html")
    return report
