"""Statistics: one number for many elements, which scales or shifts them all. They are few, and always exact."""

from __future__ import annotations

from torch import fx

from .fake_values import numel, tensor
from .ops import ELEMENT_PRESERVING, VIEWS, name_of, skip_ops

# Reductions that others are normalised with.
NORMALISERS = frozenset(["var_mean", "var", "std", "std_mean", "amax", "amin", "logsumexp", "rsqrt"])
# Reductions that are statistics where each number stands for at least MANY elements.
SUMS = frozenset(["sum", "mean", "prod", "linalg_vector_norm"])
MANY = 64
# Pointwise ops that make one statistic of another.
POINTWISE = frozenset(
    ["add", "sub", "mul", "div", "neg", "log", "exp", "sqrt", "reciprocal", "pow", "clamp_min", "where"]
)
DEPTH = 8


def is_statistic(value: fx.Node, depth: int = DEPTH) -> bool:
    """Whether the value is a reduction's result, attention's log-sum-exp, or computed from such numbers alone."""
    source = skip_ops(value, VIEWS | ELEMENT_PRESERVING)
    name = name_of(source)
    if name == "getitem" and isinstance(source.args[0], fx.Node):
        if "attention" in name_of(source.args[0]):
            return bool(source.args[1] != 0)
        source = source.args[0]
        name = name_of(source)
    if name in NORMALISERS:
        return True
    if name in SUMS:
        whole, own = tensor(source.all_input_nodes[0]), tensor(source)
        return whole is not None and own is not None and numel(whole) >= MANY * numel(own)
    if name not in POINTWISE or depth == 0:
        return False
    own = tensor(source)
    inputs = source.all_input_nodes
    return own is not None and bool(inputs) and all(_few(i, numel(own)) or is_statistic(i, depth - 1) for i in inputs)


def _few(node: fx.Node, count: int) -> bool:
    """A parameter, or a constant, that is broadcast over the statistics."""
    own = tensor(node)
    return (
        node.op in ("placeholder", "get_attr")
        or (own is not None and numel(own) * MANY <= count)
        or (own is not None and numel(own) == 1)
    )
