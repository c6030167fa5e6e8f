"""The part of a joint graph from a large product, such as logits, to what is summed over its rows: losses, gradients.

The gradients in it depend on one scalar incoming gradient, and linearly: computed for the gradient 1, in the forward,
and multiplied afterwards, they are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from ..joint.fake_values import numel, tensor, varies
from ..joint.op_table import name_of
from ..torch_compat import aot_partitioner as aot
from .linear import degrees
from .rows import (
    PRODUCTS,
    REDUCE,
    REGROUP,
    TRANSPOSED,
    WHOLE,
    NotByRows,
    Reading,
    Rows,
    demanded,
    is_pointwise,
    operands,
    reading,
    shape,
)

# A product is computed in chunks that has at least so many elements, and so many times those of its rows' operand.
LEAST_ELEMENTS = 2**20
LEAST_GROWTH = 8
# If its rows vary, the graph may be traced for a batch this many times smaller than those that it will be used for.
LEAST_OF_USUAL = 64
# A value of rows is large that has at least this share of the product's elements.
LARGE = 0.2


class Declined(Exception):
    """The product cannot be computed in chunks. The text continues the sentence 'not in chunks: ...'."""


@dataclass(frozen=True)
class Output:
    """What the rest of the graph reads of a region. degree: 1 for a value that is linear in the incoming gradient.

    is_sum: it is a sum over all rows; otherwise it has rows, in its first `leading` dimensions.
    """

    node: fx.Node
    is_sum: bool
    leading: int
    degree: int


@dataclass(frozen=True)
class Region:
    """product: mm or addmm [N, V], the first node. leading: node -> see `rows`, for the nodes of the region, in the
    graph's order, and its inputs. inputs: nodes outside that it reads. tangent: the incoming gradient, or None."""

    product: fx.Node
    rows: Rows
    leading: Mapping[fx.Node, int]
    nodes: Sequence[fx.Node]
    inputs: Sequence[fx.Node]
    tangent: fx.Node | None
    outputs: Sequence[Output]


def products(graph: fx.Graph) -> Iterator[fx.Node]:
    """The products that are far larger than their rows' operand, a varying size as it was traced."""
    for node in graph.nodes:
        if name_of(node) not in PRODUCTS:
            continue
        fake, source = tensor(node), tensor(node.args[-2])
        if fake is None or source is None or node.kwargs:
            continue
        if is_worth_chunks(numel(fake), numel(source), varies(fake)):
            yield node


def is_worth_chunks(elements: int, source: int, varies: bool) -> bool:
    """Return True if a product of so many elements is large.

    source: elements of its rows' operand. varies: its sizes are symbols, and the numbers are as traced.
    """
    least = LEAST_ELEMENTS / LEAST_OF_USUAL if varies else LEAST_ELEMENTS
    return elements >= least and elements >= LEAST_GROWTH * source


def region_of(product: fx.Node, backward: frozenset[fx.Node]) -> Region:
    """The region that starts with a product. backward: the nodes that depend on an incoming gradient.

    Raises:
        Declined: its rows cannot be computed one chunk after the other.
    """
    try:
        return _region(product, Rows(shape(product)[0]), backward)
    except (Declined, NotByRows):
        views = [user for user in product.users if name_of(user) in REGROUP and len(shape(user)) > 2]
        for count in {size for view in views if isinstance(size := shape(view)[0], int)} - {1}:
            with contextlib.suppress(Declined, NotByRows):
                return _region(product, Rows(count, are_sequences=True), backward)
        raise


def _region(product: fx.Node, rows: Rows, backward: frozenset[fx.Node]) -> Region:
    """The region of a product, whose rows are these."""
    walk = _Walk(product, rows, backward)
    walk.forwards()
    inputs = walk.pull()
    tangents = [node for node in inputs if node in backward]
    if any(not aot.is_tangent(node) or numel_of(node) != 1 for node in tangents) or len(tangents) > 1:
        raise Declined("its gradient depends on more than the gradient of one scalar")
    tangent = tangents[0] if tangents else None
    nodes = [node for node in product.graph.nodes if node in walk.inside]
    outputs = _outputs(walk, nodes, tangent)
    _check_order(walk.inside, outputs, inputs)
    return Region(
        product, rows, walk.leading, nodes, [node for node in inputs if node is not tangent], tangent, outputs
    )


class _Walk:
    """Finds the nodes of a region. leading: of its nodes and inputs; ends: nodes behind which it ends -> is a sum;
    pulled: nodes that do not depend on the product, and are computed with it: others may read the original."""

    def __init__(self, product: fx.Node, rows: Rows, backward: frozenset[fx.Node]) -> None:
        self.product, self.rows, self.backward = product, rows, backward
        self.leading: dict[fx.Node, int] = {}
        self.inside: set[fx.Node] = {product}
        self.pulled: set[fx.Node] = set()
        self.ends: dict[fx.Node, bool] = {}

    def is_large(self, node: fx.Node) -> bool:
        return numel_of(node) >= LARGE * numel_of(self.product)

    def is_of_large(self, node: fx.Node) -> bool:
        """Return True if a large value, such as a teacher's logits, is read to compute this one.

        Only elementwise ops, reductions and views are looked through.
        """
        stack = [node]
        while stack:
            source = stack.pop()
            if self.is_large(source):
                return True
            if is_pointwise(source) or name_of(source) in REDUCE | REGROUP:
                stack += [operand for operand in source.all_input_nodes if tensor(operand) is not None]
        return False

    def _note_operands(self, node: fx.Node, result: Reading) -> None:
        """Note how a node reads its operands. Raises NotByRows if another node reads one of them in another way."""
        for operand, leading in result.operands.items():
            if self.leading.setdefault(operand, leading) != leading:
                raise NotByRows(name_of(node))

    def forwards(self) -> None:
        """Follow the rows from the product to where they end: a sum, a product that is smaller, an unknown op."""
        self.leading[self.product] = 1
        self._note_operands(self.product, reading(self.product, {}, self.rows))
        for node in list(self.product.graph.nodes):
            read = [o for o in node.all_input_nodes if o in self.inside and o not in self.ends]
            if node.op == "output" and any(self.is_large(operand) for operand in read):
                raise Declined("the graph returns it, as a whole")
            if node is self.product or not read or node.op == "output":
                continue
            known = {operand: self.leading[operand] for operand in read}
            try:
                result = reading(node, known, self.rows)
                self._note_operands(node, result)
            except NotByRows as error:
                if any(self.is_large(operand) for operand in read):
                    raise Declined(f"{error} reads it otherwise than row by row") from None
                continue
            self.inside.add(node)
            if result.leading is None:
                self.ends[node] = True
            else:
                self.leading[node] = result.leading
                if name_of(node) in PRODUCTS and not self.is_large(node):
                    self.ends[node] = False

    def pull(self) -> list[fx.Node]:
        """Take in what is read that is large, or depends on an incoming gradient; return what is read still."""
        inputs: dict[fx.Node, None] = {}
        stack = [operand for node in self.inside for operand in operands(node)]
        while stack:
            node = stack.pop()
            if node in self.ends:
                raise Declined("what is summed over all rows is read by a row again")
            if node in self.inside or node in inputs:
                continue
            leading = self.leading[node]
            is_pulled = node.op == "call_function" and (
                node in self.backward
                or leading == TRANSPOSED
                or (leading != WHOLE and (self.is_large(node) or self.is_of_large(node)))
            )
            if is_pulled:
                try:
                    self._note_operands(node, demanded(node, leading, self.rows))
                except NotByRows as error:
                    raise Declined(f"it is read together with a value of {error}") from None
                self.inside.add(node)
                self.pulled.add(node)
                stack += operands(node)
            elif leading == TRANSPOSED:
                raise Declined(
                    f"{name_of(node) or 'an input'}, which is not the transpose of rows, is multiplied with it"
                )
            else:
                inputs[node] = None
        order = {node: index for index, node in enumerate(self.product.graph.nodes)}
        return sorted(inputs, key=order.__getitem__)


def numel_of(node: fx.Node) -> int:
    """The number of a value's elements; 0 if it is no tensor."""
    fake = tensor(node)
    return 0 if fake is None else numel(fake)


def _outputs(walk: _Walk, nodes: Sequence[fx.Node], tangent: fx.Node | None) -> list[Output]:
    try:
        degree = degrees(nodes, tangent)
    except NotByRows as error:
        raise Declined(f"it is read by {error}") from None
    outputs = []
    for node in nodes:
        outside = [user for user in node.users if user not in walk.inside]
        if not outside or node in walk.pulled:
            continue
        is_sum = walk.ends.get(node, False)
        leading = WHOLE if is_sum else walk.leading[node]
        if not is_sum and leading == TRANSPOSED:
            raise Declined("its transpose is read elsewhere")
        if not is_sum and walk.is_large(node):
            raise Declined(f"{name_of(outside[0])} reads it, as a whole")
        outputs.append(Output(node, is_sum, leading, degree[node]))
    if not any(output.degree == 1 for output in outputs):
        raise Declined("no gradient is computed from it")
    return outputs


def _check_order(inside: set[fx.Node], outputs: Sequence[Output], inputs: Sequence[fx.Node]) -> None:
    """Raise Declined if an input of the region is computed from one of its outputs."""
    behind: set[fx.Node] = set()
    stack = [user for output in outputs for user in output.node.users if user not in inside]
    while stack:
        node = stack.pop()
        if node not in behind:
            behind.add(node)
            stack.extend(user for user in node.users if user not in inside)
    if any(node in behind for node in inputs):
        raise Declined("its gradient is computed from the loss")
