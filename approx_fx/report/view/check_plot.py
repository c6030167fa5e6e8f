"""Draws what `approx_fx.check` measured: errors against what was promised, and the cosine of each gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ApproxFxError
from ..data import MeasuredValue


def save(values: Sequence[MeasuredValue], cosines: Mapping[str, float], path: Path) -> Path:
    """Write a picture in the format of the path's ending; returns the path. Raises ApproxFxError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ApproxFxError(f"{error}: pictures need matplotlib; pip install 'approx_fx[view]'.") from error

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    errors, gradients = figure.subplots(1, 2)
    measured = [value for value in values if value.measured is not None]
    for label, marker, chosen in (
        ("as it is stored", "o", [(value.promised, value.measured) for value in measured]),
        ("before something was done", "x", [(v.promised, v.before) for v in measured if v.before is not None]),
    ):
        if chosen:
            xs, ys = zip(*((max(x, 1e-4), min(max(y or 0.0, 1e-4), 10)) for x, y in chosen), strict=True)
            errors.scatter(xs, ys, marker=marker, label=label)
    limits = [1e-4, 10]
    errors.plot(limits, limits, color="grey", linewidth=0.8, label="measured = promised")
    errors.set(xscale="log", yscale="log", xlabel="promised relative error", ylabel="measured relative error")
    errors.legend()
    ordered = sorted(cosines.items(), key=lambda item: item[1])
    gradients.plot([1 - value for _, value in ordered], range(len(ordered)), "o", markersize=3)
    gradients.set(xscale="log", xlabel="1 - cosine of a parameter's gradient", ylabel="parameters, worst first")
    gradients.invert_yaxis()
    figure.savefig(path, dpi=120)
    return path
