"""The picture as text, for a terminal, a log or an issue; one conv-BN-ReLU chain as a Mermaid flow chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ApproxFxError, did_you_mean
from ...joint.op_table import VIEWS
from ..data import Report
from ..text import size
from .colours import TITLES
from .liveness import Moments
from .merge import merged
from .nodes import Node
from .page_data import coding_text
from .picture import Picture
from .ribbon import SIDES, ribbons
from .summary import summary

SCHEMA = 1
BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 72
# Ops that a flow chart leaves out: their results are views of their inputs.
UNDRAWN = frozenset(VIEWS | {"getitem"})


def text(report: Report) -> str:
    """Summary, ribbon, timeline and tables, at most 160 columns wide."""
    picture = merged(report)
    lines = [f"{term}: {value}" for term, value in summary(report).items()]
    lines += ["", "saved, module by module (made -> read in)", *_ribbon(picture)]
    highest = max(getattr(picture, side).moments.peak_bytes for side in SIDES)
    lines += ["", "alive through the step, parameters left out, on one scale"]
    lines += [_timeline(TITLES[side], getattr(picture, side).moments, highest) for side in SIDES]
    peak = picture.after.moments
    if peak.moments:
        moment = peak.moments[peak.peak]
        lines += ["", f"alive at the peak, in the {moment.phase} at {moment.op} of {moment.module or '(model)'}"]
        lines += [f"  {size(alive.bytes):>10}  {alive.kind}: {alive.name}" for alive in peak.at_peak[:8]]
    return "\n".join([*lines, "", str(report)])


def data(report: Report) -> dict[str, Any]:
    """The picture as JSON data: schema, summary, report (as `explain --json`), and each graph's two sides."""
    return {
        "schema": SCHEMA,
        "summary": summary(report),
        "report": report.to_dict(),
        "graphs": [picture.to_dict() for picture in report.pictures],
    }


def _ribbon(picture: Picture) -> list[str]:
    state = ribbons(picture)[0]
    arcs = sorted(state.arcs["after"], key=lambda arc: -arc.share)
    total = sum(arc.share for arc in arcs) or 1
    lines = []
    for arc in arcs[:24]:
        bar = "█" * max(1, round(24 * arc.share / (arcs[0].share or 1)))
        ends = f"{arc.source or '(model)'} -> {arc.target or '(model)'}"
        lines.append(
            f"  {bar:<24} {size(arc.share):>10} {arc.share / total:4.0%}  {ends}, {coding_text(arc.tensors[0])}"
        )
    return lines + ([f"  and {len(arcs) - 24} thinner ones"] if len(arcs) > 24 else [])


def _timeline(title: str, moments: Moments, highest: int) -> str:
    totals = [moment.total for moment in moments.moments] or [0]
    step = max(len(totals) / WIDTH, 1)
    tops = [
        max(totals[int(i * step) : max(int((i + 1) * step), int(i * step) + 1)]) for i in range(min(WIDTH, len(totals)))
    ]
    bars = "".join(BARS[round((len(BARS) - 1) * top / max(highest, 1))] for top in tops)
    return f"  {title:>13} |{bars}| peak {size(moments.peak_bytes)}"


def mermaid(report: Report, module: str | None = None) -> str:
    """A Mermaid flow chart of one conv-BN-ReLU chain, or of one module's ops if it has none, with codes and decode ops.

    module: any module of the chain; default the first chain's. Raises ApproxFxError for an unknown module, and if
    nothing is saved.
    """
    nodes = merged(report).after.nodes
    members = _members(nodes, module)
    if not members:
        raise ApproxFxError("nothing is saved that could be drawn.")
    drawn = [index for index in members if nodes[index].op not in UNDRAWN]
    lines = ["flowchart TD"]
    for index in drawn:
        node = nodes[index]
        label = "<br/>".join(filter(None, (node.op, _plain(node.module), node.shape)))
        lines.append(f'  n{index}["{label}"]' + (":::coded" if node.role in ("quantize", "dequantize") else ""))
    for index in drawn:
        lines += [f"  n{source} --> n{index}" for source in _drawn_sources(nodes, index, "reads", set(members))]
        lines += [
            f"  n{source} ==>|saved| n{index}" for source in _drawn_sources(nodes, index, "from_saved", set(members))
        ]
    return "\n".join([*lines, "  classDef coded fill:#7fb7dc,stroke:#0072B2,color:#111", ""])


def _drawn_sources(nodes: Sequence[Node], index: int, edge: str, members: set[int]) -> list[int]:
    """The drawn nodes that a node reads, directly or through nodes that are not drawn."""
    sources: dict[int, None] = {}
    stack = list(reversed(getattr(nodes[index], edge)))
    while stack:
        source = stack.pop()
        if source not in members:
            continue
        if nodes[source].op in UNDRAWN:
            stack.extend(reversed(nodes[source].reads))
        else:
            sources[source] = None
    return list(sources)


def _members(nodes: Sequence[Node], module: str | None) -> list[int]:
    """Indices of the chain's forward nodes, their codes, and the first decode op of each kind for these codes."""
    named = [node for node in nodes if module is None or node.module == module or node.module.startswith(f"{module}.")]
    if not named:
        hint = did_you_mean(module or "", {node.module for node in nodes if node.module})
        raise ApproxFxError(f"no module {module!r} takes part in the graph.{hint}")
    chain = next((node.chain for node in named if node.chain >= 0), None)
    if chain is not None:
        members = {index for index, node in enumerate(nodes) if node.chain == chain}
    else:
        root = module or next(
            (node.module for role in ("quantize", "saved") for node in nodes if node.role == role), None
        )
        forward = [(index, node.module) for index, node in enumerate(nodes) if node.side == "forward"]
        members = {index for index, path in forward if path == root or path.startswith(f"{root}.")}
    decoded: set[tuple[str, tuple[int, ...]]] = set()
    for index, node in enumerate(nodes):
        if node.side == "forward" and node.role in ("quantize", "saved") and members.intersection(node.reads):
            members.add(index)
        if node.role == "dequantize" and members.intersection(node.from_saved):
            if (node.op, node.from_saved) not in decoded:
                members.add(index)
            decoded.add((node.op, node.from_saved))
    return sorted(members)


def _plain(name: str) -> str:
    """A module's name with characters that Mermaid would interpret replaced by '_'."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name) or "(model)"
