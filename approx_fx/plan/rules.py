"""Which ops may be recomputed in the backward, and which backward ops may read an approximation: one line a rule.

Recomputing from a dequantized anchor is allowed where the op is cheap and continuous: a small error in gives a small
error out. Never: reductions, convolutions, matrix products, attention, random numbers (dear), and anything that takes a
decision (comparisons, rounding, sign, indices), because a decision taken on approximate values is a wrong mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from ..joint.fake_values import shape, tensor
from ..joint.graph import Joint
from ..joint.lower_bounds import at_least
from ..joint.ops import ATTENTION_BACKWARD, CASTS, COMPARISONS, COMPUTE_BOUND, VIEWS, name_of

# op -> why it may be recomputed
RECOMPUTE: dict[str, str] = {
    **dict.fromkeys(VIEWS, "view"),
    **dict.fromkeys(CASTS, "cast"),
    # broadcasting and constants
    **dict.fromkeys(
        ["full", "full_like", "zeros_like", "ones_like", "new_zeros", "scalar_tensor", "iota", "arange", "empty_like"],
        "constant",
    ),
    # x, y -> elementwise sums and products; a product of two anchors (SwiGLU) carries the sum of their relative errors
    **dict.fromkeys(["add", "sub", "rsub", "mul", "div", "neg", "fma", "addcmul", "addcdiv", "lerp"], "arithmetic"),
    # smooth functions of one value
    **dict.fromkeys(
        ["exp", "exp2", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "pow", "square", "erf", "erfc"],
        "smooth",
    ),
    **dict.fromkeys(
        ["sigmoid", "tanh", "silu", "gelu", "softplus", "elu", "mish", "sin", "cos", "logit", "asinh"], "smooth"
    ),
    # continuous, with a kink whose side is decided elsewhere by an exact mask
    **dict.fromkeys(
        ["relu", "clamp", "clamp_min", "clamp_max", "hardtanh", "minimum", "maximum", "abs", "leaky_relu"], "kink"
    ),
    **dict.fromkeys(["hardswish", "hardsigmoid"], "kink"),
    "where": "select",
    # moving elements
    **dict.fromkeys(
        ["cat", "stack", "constant_pad_nd", "flip", "roll", "repeat", "slice_scatter", "select_scatter"], "move"
    ),
    # picking elements: what is picked is told by whole numbers, which are exact
    **dict.fromkeys(["index", "gather", "index_select", "embedding"], "pick"),
    # bits of masks
    **dict.fromkeys(["bitwise_or", "bitwise_and", "bitwise_not", "logical_or", "logical_and", "logical_not"], "logic"),
    **dict.fromkeys(["_conj", "_conj_physical", "resolve_conj", "complex", "real", "imag"], "complex"),
    # lossless re-coding of integers
    **dict.fromkeys(["_low_memory_max_pool_offsets_to_indices", "_low_memory_max_pool2d_offsets_to_indices"], "index"),
    "getitem": "part",
}

# Recomputed where every input is exact, and only there: decisions and lookups that come out the same again.
EXACT_INPUTS_ONLY: frozenset[str] = frozenset(
    COMPARISONS
    | set(["sign", "round", "floor", "ceil", "trunc", "remainder", "fmod"])
    | set(["bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "isnan", "isinf", "inductor_lookup_seed"])
    | set(["tril", "triu", "one_hot"])
)

# Random numbers that Inductor draws from a saved seed by counting: the same seed gives them again.
SEEDED: frozenset[str] = frozenset(["inductor_random", "inductor_randint"])

# Arguments at which a small error does not stay small: near zero the result has no bound, or none at all below it.
# A value known to be at least `SAFE_DISTANCE` less the op's own offset (log1p: 1) is far from there.
SAFE_DISTANCE = 1.0

# Backward ops that are linear in the activation, or smooth in it. Whatever is not listed reads exact values.
TOLERANT: frozenset[str] = frozenset(
    set(RECOMPUTE)
    | COMPUTE_BOUND
    | set(
        [
            "sum",
            "mean",
            "var_mean",
            "cumsum",
            "native_layer_norm_backward",
            "native_group_norm_backward",
            "dot",
            "mv",
            "vdot",
        ]
    )
    | set(["_softmax_backward_data", "_log_softmax_backward_data", "native_dropout_backward"])
    | set(
        [
            "avg_pool2d_backward",
            "_adaptive_avg_pool2d_backward",
            "grouped_mm_fallback_backward",
            "upsample_nearest2d_backward",
            "upsample_bilinear2d_backward",
        ]
    )
    | set(["sigmoid_backward", "tanh_backward", "gelu_backward", "silu_backward", "softplus_backward", "mish_backward"])
    # these read the activation's shape alone; where the gradient goes is told by exact indices
    | set(
        [
            "max_pool2d_with_indices_backward",
            "embedding_dense_backward",
            "scatter_add",
            "index_put",
            "index_add",
            "scatter",
        ]
    )
)

# Only these of their arguments may be approximate: a scatter's gradient side, the values that attention mixes.
TOLERANT_ARGUMENTS: dict[str, tuple[int, ...]] = {
    **ATTENTION_BACKWARD,
    "scatter_add": (0, 3),
    "scatter": (0, 3),
    "index_put": (0, 2),
    "index_add": (0, 3),
    "embedding_dense_backward": (0,),
}

SINGULAR: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(["log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal", "logit", "pow"], (0,)),
    "div": (1,),
    "addcdiv": (2,),
}


def singular(node: fx.Node, value: fx.Node) -> bool:
    """Whether the node reads `value` where only the exact value will do; whole powers are smooth."""
    name = name_of(node)
    if (
        name == "pow"
        and isinstance(node.args[1], (int, float))
        and node.args[1] >= 1
        and node.args[1] == int(node.args[1])
    ):
        return False
    offset = 1.0 if name == "log1p" else 0.0
    return any(
        arg is value and at_least(value) + offset < SAFE_DISTANCE
        for index, arg in enumerate(node.args)
        if index in SINGULAR.get(name, ())
    )


def recomputable(node: fx.Node) -> bool:
    """Whether the table allows the node to be computed again in the backward."""
    return node.op == "call_function" and name_of(node) in RECOMPUTE


def tolerates(consumer: fx.Node, value: fx.Node) -> bool:
    """Whether a backward node may read an approximation of `value`."""
    name = name_of(consumer)
    if name not in TOLERANT or singular(consumer, value):
        return False
    places = TOLERANT_ARGUMENTS.get(name)
    return places is None or set(_places(consumer, value)) <= set(places)


def _places(consumer: fx.Node, value: fx.Node) -> Iterator[object]:
    """Where the node reads the value: the numbers and names of its arguments, those that are lists looked into."""
    for place, arg in (*enumerate(consumer.args), *consumer.kwargs.items()):
        if any(leaf is value for leaf in tree_leaves(arg)):
            yield place


def derived_from_inputs(joint: Joint) -> set[fx.Node]:
    """Nodes that recompute exactly from parameters and inputs alone: transposed weights, casts, constants."""
    found: set[fx.Node] = set(joint.inputs - joint.mutated)
    for node in joint.module.graph.nodes:
        if node.op == "get_attr" or (
            node not in joint.backward
            and (recomputable(node) or name_of(node) in EXACT_INPUTS_ONLY)
            and all(i in found for i in node.all_input_nodes)
        ):
            found.add(node)
    return found


def of_parameters(joint: Joint) -> set[fx.Node]:
    """Nodes computed from parameters and buffers alone, by whatever op: gathered, normalised, decomposed weights."""
    found = set(joint.parameters)
    for node in joint.order:
        inputs = node.all_input_nodes
        if node not in joint.backward and node.op == "call_function" and inputs and all(i in found for i in inputs):
            found.add(node)
    return found - joint.parameters


def exact_again(joint: Joint, free: frozenset[fx.Node], seeded: bool) -> set[fx.Node]:
    """Nodes that are exact wherever they are: whole numbers as they are kept, and what is computed from those alone.

    And what is computed from parameters alone: an approximate weight would be wrong for every sample in the same way.
    seeded: whether the compiler draws the same random numbers from the same seed.
    """
    found: set[fx.Node] = of_parameters(joint) - free
    for node in joint.order:
        if node in joint.backward or node in free or node.op != "call_function":
            continue
        own, name = tensor(node), name_of(node)
        whole = own is not None and not own.dtype.is_floating_point and own.dtype != torch.bool and not own.is_complex()
        again = recomputable(node) or name in EXACT_INPUTS_ONLY or (seeded and name in SEEDED)
        if whole or (again and node.all_input_nodes and all(i in free or i in found for i in node.all_input_nodes)):
            found.add(node)
    return found


def is_residual_sum(node: fx.Node) -> bool:
    """Whether the node adds two activations of its own size: a step of a residual stream."""
    if name_of(node) != "add" or len(node.all_input_nodes) != 2:
        return False
    return tensor(node) is not None and all(shape(source) == shape(node) for source in node.all_input_nodes)
