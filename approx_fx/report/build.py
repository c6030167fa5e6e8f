"""Build the report of one partitioned graph from its plan and its two halves: a row for each saved tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import fx

from ..joint.attribution import module_of, source_of
from ..joint.fake_values import is_size, nbytes, sizes, tensor
from ..joint.op_table import TABLE, VIEWS, label_of, name_of, skip_ops, traits
from ..passes.state import Partition
from ..plan.plan import Plan
from .data import GraphReport, Kept, Row

# Views that always share memory with their input.
ALIASES = frozenset(name for name in VIEWS if not TABLE[name].may_copy)


def describe(partition: Partition, before: int, peaks: tuple[int, int], key: str) -> GraphReport:
    """Report one partitioned graph.

    before: bytes that torch's own partition saves; peaks: predicted bytes under torch's partition and under this one.
    """
    plan = partition.plan
    readers_of = readers(plan)
    early = earliness(partition)
    read_names = {node.name for node in partition.backward.graph.find_nodes(op="placeholder")}
    rows: list[Row] = []
    kept: list[Kept] = []
    # A code may read tensors that are saved anyway, such as the statistics of a row norm; they count once.
    counted = {value for value, encoding in plan.anchors.items() if not encoding.coded}
    for value, nodes in partition.stored.items():
        encoding, fake = plan.anchors[value], tensor(value)
        if fake is None or not any(node.name in read_names for node in nodes):
            continue
        reading_nodes = readers_of.get(value, [])
        ops = tuple(sorted({name_of(node) for node in reading_nodes} - {""}))
        identity = (value.name, module_of(value), label_of(value), sizes(fake), str(fake.dtype).removeprefix("torch."))
        used_in = tuple(dict.fromkeys(map(module_of, reading_nodes)))
        if encoding.why_exact():
            kept.append(Kept(*identity, nbytes(value), encoding.why_exact(), ops, source_of(value), used_in))
            continue
        rows.append(
            Row(
                *identity,
                encoding.name,
                encoding.bits,
                nbytes(value),
                sum(nbytes(node) for node in set(nodes) - counted),
                ops,
                source_of(value),
                value in plan.carried.values(),
                used_in,
                encoding.expected_error(fake),
                early.get(value, 0),
            )
        )
        counted.update(nodes)
    stored = [node for nodes in partition.stored.values() for node in nodes if node.name in read_names]
    after = saved_bytes(stored, plan.joint.activations)
    return GraphReport(key, before, after, *peaks, tuple(rows), tuple(kept), losses=tuple(partition.losses))


def earliness(partition: Partition) -> dict[fx.Node, int]:
    """Anchor -> compute-bound ops of the backward between its earliest decode op and that op's first reader.

    The decode op of the anchor's mask counts, too.
    """
    plan = partition.plan
    position: dict[str, int] = {}
    first_read: dict[str, int] = {}
    compute_bound = 0
    for node in partition.backward.graph.nodes:
        for source in node.all_input_nodes:
            first_read.setdefault(source.name, compute_bound)
        compute_bound += traits(node).compute_bound
        position[node.name] = compute_bound
    distance: dict[fx.Node, int] = {}
    for copy, value in partition.copies.items():
        owner = plan.carried.get(value, value)
        if owner in plan.anchors and copy.name in first_read:
            distance[owner] = max(distance.get(owner, 0), first_read[copy.name] - position[copy.name])
    return distance


def saved_bytes(saved: Iterable[fx.Node], activations: Collection[fx.Node] = ()) -> int:
    """Bytes of the saved nodes of a joint graph, without sizes and inputs but `activations`; aliases count once."""
    return sum(saved_roots(saved, activations).values())


def saved_roots(saved: Iterable[fx.Node], activations: Collection[fx.Node] = ()) -> dict[fx.Node, int]:
    """Map each value that a saved node is, or is a view of, to its bytes; `saved_bytes` is their sum.

    activations: inputs that another graph computed; they count, too.
    """
    roots: dict[fx.Node, int] = {}
    for node in saved:
        root = skip_ops(node, ALIASES)
        is_alive = root.op in ("placeholder", "get_attr") and root not in activations
        if not is_alive and not is_size(node):
            roots[root] = max(roots.get(root, 0), nbytes(node))
    return roots


def readers(plan: Plan) -> dict[fx.Node, list[fx.Node]]:
    """Anchor -> the backward nodes that read it, directly or through values recomputed from it, in graph order."""
    readers_of: dict[fx.Node, dict[fx.Node, None]] = {}
    for value, consumers in plan.joint.demands.items():
        for anchor in plan.anchors_behind(value):
            readers_of.setdefault(anchor, {}).update(dict.fromkeys(consumers))
    order = plan.joint.order
    return {anchor: sorted(nodes, key=order.__getitem__) for anchor, nodes in readers_of.items()}
