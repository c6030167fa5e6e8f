"""The summary above a picture."""

from __future__ import annotations

import torch

from ...version import __version__
from ..data import Report
from ..text import size


def summary(report: Report) -> dict[str, str]:
    """Label -> text: sizes, options, model, versions, and the command that writes the report again."""
    about, peak = report.about, report.predicted_peak
    early = sum(row.early > 0 for row in report.tensors)
    bits = report.options.get("bits")
    return {
        "saved": f"{size(report.saved_before)} → {size(report.saved_after)}",
        "smaller": f"{report.ratio:.1f}x",
        "predicted peak": f"{size(peak['before'])} → {size(peak['after'])}",
        "bits": "exact" if bits is None else str(bits),
        "model": about.model,
        "batch": str(about.batch),
        "dtype": about.dtype,
        "graphs": str(len(report.graphs))
        + "".join(f"; exact: {graph.failed}" for graph in report.graphs if graph.failed),
        "decoded early": f"{early} of {len(report.tensors)}" if early else "none",
        "versions": f"approx_fx {__version__}, torch {torch.__version__}",
        **({"command": about.command} if about.command else {}),
    }
