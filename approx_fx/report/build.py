"""What a partition saves, tensor by tensor, read off its plan and its two halves."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from ..joint.attribution import module_of, source_of
from ..joint.fake_values import is_size, nbytes, sizes, tensor
from ..joint.op_table import TABLE, VIEWS, traits
from ..joint.ops import name_of, skip_ops
from ..passes.state import Partition
from ..plan.plan import Plan
from .data import GraphReport, Kept, Row

# Views that share their memory with what they are views of.
ALIASES = frozenset(name for name in VIEWS if not TABLE[name].may_copy)


def describe(done: Partition, before: int, peaks: tuple[int, int], key: str) -> GraphReport:
    """The report of one partitioned graph. before: bytes that torch's own partition saves; peaks: before, after."""
    reading = readers(done.plan)
    early = earliness(done)
    used = {node.name for node in done.backward.graph.find_nodes(op="placeholder")}
    rows: list[Row] = []
    kept: list[Kept] = []
    # Codes may share what is stored: the statistics of a row, which its norm's backward keeps anyway.
    counted = {value for value, encoding in done.plan.anchors.items() if not encoding.coded}
    for value, nodes in done.stored.items():
        encoding, own = done.plan.anchors[value], tensor(value)
        if own is None or not any(node.name in used for node in nodes):
            continue
        readings = reading.get(value, [])
        ops = tuple(sorted({name_of(node) for node in readings} - {""}))
        where = (value.name, module_of(value), name_of(value), sizes(own), str(own.dtype).removeprefix("torch."))
        used_in = tuple(dict.fromkeys(map(module_of, readings)))
        if not encoding.coded:
            if encoding.why_exact() != "output":
                kept.append(Kept(*where, nbytes(value), encoding.why_exact(), ops, source_of(value), used_in))
            continue
        rows.append(
            Row(
                *where,
                encoding.name,
                encoding.bits,
                nbytes(value),
                sum(nbytes(node) for node in set(nodes) - counted),
                ops,
                source_of(value),
                value in done.plan.carried.values(),
                used_in,
                encoding.expected_error(own),
                early.get(value, 0),
            )
        )
        counted.update(nodes)
    stored = [node for nodes in done.stored.values() for node in nodes if node.name in used]
    after = saved_bytes(stored, done.plan.joint.fwd_outputs)
    return GraphReport(key, before, after, *peaks, tuple(rows), tuple(kept))


def earliness(done: Partition) -> dict[fx.Node, int]:
    """Anchor -> heavy ops of the backward between the earliest decoding, of it or its mask, and its first reader."""
    position: dict[str, int] = {}
    first: dict[str, int] = {}
    heavy = 0
    for node in done.backward.graph.nodes:
        for source in node.all_input_nodes:
            first.setdefault(source.name, heavy)
        heavy += traits(node).compute_bound
        position[node.name] = heavy
    found: dict[fx.Node, int] = {}
    for copy, value in done.copies.items():
        owner = done.plan.carried.get(value, value)
        if owner in done.plan.anchors and copy.name in first:
            found[owner] = max(found.get(owner, 0), first[copy.name] - position[copy.name])
    return found


def saved_bytes(saved: Iterable[fx.Node], outputs: Iterable[fx.Node]) -> int:
    """Bytes of the saved nodes of a joint graph: no inputs, no outputs, no sizes; aliases count once."""
    return sum(saved_roots(saved, outputs).values())


def saved_roots(saved: Iterable[fx.Node], outputs: Iterable[fx.Node]) -> dict[fx.Node, int]:
    """The values that saved nodes are views of, each with its bytes; see `saved_bytes`."""
    alive = {skip_ops(node, ALIASES) for node in outputs}
    roots: dict[fx.Node, int] = {}
    for node in saved:
        root = skip_ops(node, ALIASES)
        if root.op != "placeholder" and root.op != "get_attr" and root not in alive and not is_size(node):
            roots[root] = max(roots.get(root, 0), nbytes(node))
    return roots


def readers(plan: Plan) -> dict[fx.Node, list[fx.Node]]:
    """Anchor -> the backward nodes that read it, directly or through what is recomputed from it, in graph order."""
    found: dict[fx.Node, dict[fx.Node, None]] = {}
    for value, consumers in plan.joint.demands.items():
        stack, seen = [value], set()
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in plan.anchors:
                found.setdefault(current, {}).update(dict.fromkeys(consumers))
            elif current in plan.carried:
                stack.append(plan.carried[current])
            else:
                stack.extend(plan.recompute.get(current, ()))
    order = plan.joint.order
    return {anchor: sorted(nodes, key=order.__getitem__) for anchor, nodes in found.items()}
