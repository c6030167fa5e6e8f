"""Ribbon and timeline as SVG or PNG, for papers and notebooks, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import ApproxFxError
from ..data import Report
from ..files import write
from ..text import size
from .colours import KINDS as KIND_COLOURS
from .colours import LEGEND, TITLES, of_bits
from .liveness import KINDS, Moments
from .merge import merged
from .ribbon import SIDES, Ribbon, curve, ribbons

MIB = 2**20


def save(report: Report, path: Path, kind: str) -> list[Path]:
    """Write NAME-ribbon.KIND and NAME-timeline.KIND, kind 'svg' or 'png'; NAME is `path` without its ending.

    Raises ApproxFxError as `merged` does, and if matplotlib is missing or a file cannot be written.
    """
    written = []
    for name, draw in (("ribbon", _draw_ribbon), ("timeline", _draw_timeline)):
        target = path.with_name(f"{path.stem}-{name}.{kind}")
        write(target, _render(draw, report, kind))
        written.append(target)
    return written


def timeline_svg(report: Report) -> str:
    """The timeline as an <svg> element, for a notebook's cell."""
    text = _render(_draw_timeline, report, "svg").decode()
    return text[text.index("<svg") :]


def _render(draw: Callable[[Report], Any], report: Report, kind: str) -> bytes:
    try:
        import matplotlib
        from matplotlib.backends import backend_agg, backend_svg  # noqa: F401  (chosen by the ending)
    except ImportError as error:
        raise ApproxFxError(f"{error}: pictures need matplotlib; pip install 'approx_fx[view]'.") from error
    with matplotlib.rc_context({"svg.hashsalt": "approx_fx", "font.size": 9, "svg.fonttype": "path"}):
        figure = draw(report)
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _figure(width: float, height: float, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=True, squeeze=False)[0]


def _draw_ribbon(report: Report) -> Any:
    picture = merged(report)
    layout = ribbons(picture)[0]
    figure, axes = _figure(11, max(3.0, min(0.17 * layout.height, 14)), 2)
    for side, axis in zip(SIDES, axes, strict=True):
        _draw_side(axis, layout, side)
        saved = sum(tensor.bytes_after for tensor in getattr(picture, side).saved)
        axis.set_title(f"{TITLES[side]}: {size(saved)} saved", loc="left", fontsize=10)
        axis.axis("off")
    axes[0].set_ylim(layout.height, 0)
    handles = [_patch(colour, label) for colour, label in LEGEND]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_side(axis: Any, layout: Ribbon, side: str) -> None:
    for arc in layout.arcs[side]:
        axis.fill(*curve(arc), color=of_bits(arc.tensors[0].bits), alpha=0.75, linewidth=0)
    for slot in layout.slots:
        for x in (-0.015, 1.0):
            axis.add_patch(_rectangle((x, slot.top + 0.06), 0.015, slot.height - 0.12))
        if side == "before":
            axis.text(-0.03, slot.top + slot.height / 2, slot.module or "(model)", ha="right", va="center", fontsize=7)
    axis.set_xlim(-0.32 if side == "before" else -0.02, 1.02)


def _rectangle(corner: tuple[float, float], width: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, color="#777777", linewidth=0)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _draw_timeline(report: Report) -> Any:
    picture = merged(report)
    figure, axes = _figure(11, 3.8, 2)
    for side, axis in zip(SIDES, axes, strict=True):
        _draw_moments(axis, getattr(picture, side).moments, report.about.parameters)
        axis.set_title(
            f"{TITLES[side]}: peak {size(getattr(picture, side).moments.peak_bytes)}", loc="left", fontsize=10
        )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("MiB alive, parameters included")
    handles = [_patch(colour, kind) for kind, colour in KIND_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_moments(axis: Any, moments: Moments, parameters: int) -> None:
    if not moments.moments:
        return
    positions = range(len(moments.moments))
    layers = [[parameters / MIB] * len(positions)]
    layers += [[moment.live[index] / MIB for moment in moments.moments] for index in range(len(KINDS))]
    axis.stackplot(positions, layers, colors=list(KIND_COLOURS.values()), step="post", linewidth=0)
    backward_start = next((i for i, moment in enumerate(moments.moments) if moment.phase.startswith("backward")), 0)
    axis.axvline(backward_start, color="#777777", linewidth=0.8, linestyle=":")
    peak = moments.moments[moments.peak]
    axis.plot([moments.peak], [(peak.total + parameters) / MIB], "v", color="black", markersize=5, clip_on=False)
    axis.set_xlim(0, len(positions))
    axis.set_xlabel("forward, then backward: ops in their order")
