"""The table of ops: one row holds all that this project knows about an op. The fields are described in `op_traits`.

The value of an op without a row is not recomputed, and a backward op without a row reads its arguments exactly.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from . import lower_bounds as low
from .op_traits import ALL, OpTraits

# Families: traits that many ops share.
VIEW = OpTraits(recompute="view", tolerant=ALL, fuses=True, view="whole", keeps_fill=True, lower_bound=low.of_first)
PART = replace(VIEW, view="part")
CAST = OpTraits(recompute="cast", tolerant=ALL, fuses=True, cast=True, keeps_fill=True, lower_bound=low.of_first)
CONSTANT = OpTraits(recompute="constant", tolerant=ALL, fuses=True)
# Sums and products; a product of two anchors (SwiGLU) carries the sum of their relative errors.
ARITHMETIC = OpTraits(recompute="arithmetic", tolerant=ALL, fuses=True)
# Smooth functions of one value.
SMOOTH = OpTraits(recompute="smooth", tolerant=ALL, fuses=True)
POSITIVE = replace(SMOOTH, lower_bound=low.zero)
# Continuous, with a kink; the side of the kink is decided by an exact mask.
KINK = OpTraits(recompute="kink", tolerant=ALL, fuses=True)
SELECT = OpTraits(recompute="select", tolerant=ALL, fuses=True)
MOVE = OpTraits(recompute="move", tolerant=ALL, fuses=True)
# The indices that select elements are integers, which are exact.
PICK = OpTraits(recompute="pick", tolerant=ALL, fuses=True)
LOGIC = OpTraits(recompute="logic", tolerant=ALL, fuses=True)
COMPLEX = OpTraits(recompute="complex", tolerant=ALL, fuses=True)
# A lossless conversion of integers.
INDEX = OpTraits(recompute="index", tolerant=ALL, fuses=True)
# Recomputed only where every input is exact, so that the result is the same.
COMPARISON = OpTraits(recompute_from_exact=True)
DECISION = OpTraits(recompute_from_exact=True, decides=True)
EXACT_ONLY = OpTraits(recompute_from_exact=True)
RANDOM = OpTraits(seeded=True)
REDUCTION = OpTraits(tolerant=ALL)
NORMALISER = OpTraits(statistic="always")
HEAVY = OpTraits(tolerant=ALL, compute_bound=True)
# Linear or smooth in the activation.
BACKWARD = OpTraits(tolerant=ALL)
IMAGE = OpTraits(image=True)

# Backward ops of attention kernels -> positions of gradient, query, key, value and output, which may be approximate.
# All other arguments must be exact: a bias that may be a mask, the log-sum-exp, the seed of its dropout.
ATTENTION_BACKWARD: dict[str, tuple[int, ...]] = {
    # grad, query, key, value, out, ...
    "_scaled_dot_product_flash_attention_backward": (0, 1, 2, 3, 4),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (0, 1, 2, 3, 4),
    "_scaled_dot_product_cudnn_attention_backward": (0, 1, 2, 3, 4),
    "_flash_attention_backward": (0, 1, 2, 3, 4),
    "_cudnn_attention_backward": (0, 1, 2, 3, 4),
    # grad, query, key, value, bias, out, ...
    "_scaled_dot_product_efficient_attention_backward": (0, 1, 2, 3, 5),
    "_efficient_attention_backward": (0, 1, 2, 3, 5),
    # grad, query, key, value, bias, which gradients, out, ...
    "_scaled_dot_product_fused_attention_overrideable_backward": (0, 1, 2, 3, 6),
    # value, out, grad of (query, key, value, out, log-sum-exp, grad, ...): from approximate queries and keys it would
    # compute probabilities that do not sum to 1 (`passes/normalise_attention.py` mends that for the others)
    "flex_attention_backward": (2, 3, 5),
}
ATTENTION = frozenset(
    name.removesuffix("_backward") if "_dot_" in name or "flex" in name else name.removesuffix("backward") + "forward"
    for name in ATTENTION_BACKWARD
)

# names, separated by spaces -> traits
ROWS: tuple[tuple[str, OpTraits], ...] = (
    ("view permute transpose t expand squeeze unsqueeze alias detach as_strided diagonal", VIEW),
    ("view_as_complex view_as_real", VIEW),
    ("reshape _unsafe_view", replace(VIEW, may_copy=True)),
    ("slice select split split_with_sizes chunk unbind", PART),
    ("unfold", replace(PART, may_copy=True)),
    ("convert_element_type", replace(CAST, by_parts=True)),
    ("_to_copy clone lift_fresh_copy contiguous device_put", CAST),
    ("full", replace(CONSTANT, lower_bound=low.of_second)),
    ("full_like zeros_like ones_like new_zeros scalar_tensor iota arange empty_like", CONSTANT),
    ("add", replace(ARITHMETIC, lower_bound=low.of_sum, statistic="map", keeps_fill=True, by_parts=True)),
    ("sub neg", replace(ARITHMETIC, statistic="map", keeps_fill=True, by_parts=True)),
    ("mul", replace(ARITHMETIC, lower_bound=low.of_product, statistic="map", keeps_fill=True, by_parts=True)),
    (
        "div",
        replace(ARITHMETIC, lower_bound=low.of_quotient, poles=(1,), statistic="map", keeps_fill=True, by_parts=True),
    ),
    ("rsub", replace(ARITHMETIC, keeps_fill=True)),
    ("fma addcmul lerp", ARITHMETIC),
    ("addcdiv", replace(ARITHMETIC, poles=(2,))),
    ("exp", replace(POSITIVE, statistic="map", by_parts=True)),
    ("exp2 square softplus", POSITIVE),
    ("sigmoid", replace(POSITIVE, output_range=(0.0, 1.0), by_parts=True)),
    ("tanh", replace(SMOOTH, output_range=(-1.0, 1.0), by_parts=True)),
    ("erf", replace(SMOOTH, by_parts=True)),
    ("expm1 erfc silu gelu elu mish asinh", SMOOTH),
    ("sin cos", replace(SMOOTH, steep=True, output_range=(-1.0, 1.0))),
    ("log", replace(SMOOTH, poles=(0,), statistic="map")),
    ("log2 logit", replace(SMOOTH, poles=(0,))),
    ("log1p", replace(SMOOTH, poles=(0,), lower_bound=low.zero_if_positive)),
    ("sqrt", replace(SMOOTH, poles=(0,), lower_bound=low.zero_if_positive, statistic="map")),
    ("rsqrt", replace(SMOOTH, poles=(0,), statistic="always")),
    ("reciprocal", replace(SMOOTH, poles=(0,), statistic="map", by_parts=True)),
    ("pow", replace(SMOOTH, poles=(0,), lower_bound=low.of_power, statistic="map")),
    ("relu", replace(KINK, needs_mask=True, lower_bound=low.zero, by_parts=True)),
    ("abs", replace(KINK, lower_bound=low.zero)),
    ("hardsigmoid", replace(KINK, lower_bound=low.zero, output_range=(0.0, 1.0))),
    ("clamp hardtanh", replace(KINK, lower_bound=low.of_clamp)),
    ("clamp_min", replace(KINK, lower_bound=low.of_clamp, statistic="map", by_parts=True)),
    ("clamp_max", replace(KINK, by_parts=True)),
    ("minimum", replace(KINK, keeps_fill=True)),
    ("maximum", replace(KINK, lower_bound=low.of_first, keeps_fill=True)),
    ("leaky_relu hardswish", KINK),
    ("where", replace(SELECT, lower_bound=low.of_choice, statistic="map", keeps_fill=True, by_parts=True)),
    ("cat", replace(MOVE, keeps_fill=True)),
    ("stack constant_pad_nd flip roll repeat slice_scatter select_scatter", MOVE),
    ("index gather index_select embedding", PICK),
    ("bitwise_or bitwise_and bitwise_not logical_or logical_and logical_not", LOGIC),
    ("_conj _conj_physical resolve_conj complex real imag", COMPLEX),
    ("_low_memory_max_pool_offsets_to_indices", INDEX),
    ("getitem", OpTraits(recompute="part", tolerant=ALL, fuses=True)),
    ("le lt ge gt eq ne", COMPARISON),
    ("sign round floor ceil trunc", DECISION),
    ("sgn heaviside sort topk bernoulli", OpTraits(decides=True)),
    ("remainder fmod tril triu one_hot isnan isinf", EXACT_ONLY),
    ("bitwise_xor bitwise_left_shift bitwise_right_shift inductor_lookup_seed", EXACT_ONLY),
    ("inductor_random", replace(RANDOM, lower_bound=low.zero)),
    ("inductor_randint", RANDOM),
    ("sum mean", replace(REDUCTION, lower_bound=low.zero_if_positive, statistic="sum")),
    ("cumsum", replace(REDUCTION, lower_bound=low.zero_if_positive)),
    ("dot mv vdot", REDUCTION),
    ("prod linalg_vector_norm", OpTraits(statistic="sum")),
    ("var_mean", replace(NORMALISER, tolerant=ALL)),
    ("var", replace(NORMALISER, lower_bound=low.zero)),
    ("amax amin", replace(NORMALISER, lower_bound=low.of_first)),
    ("std std_mean logsumexp", NORMALISER),
    ("_softmax", OpTraits(lower_bound=low.zero)),
    ("upsample_nearest2d upsample_bilinear2d avg_pool2d _adaptive_avg_pool2d pixel_shuffle", IMAGE),
    ("_low_memory_max_pool_with_offsets", IMAGE),
    ("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d fractional_max_pool2d", IMAGE),
    ("convolution", replace(HEAVY, image=True)),
    ("convolution_backward mm addmm bmm baddbmm _grouped_mm grouped_mm_fallback grouped_mm_fallback_backward", HEAVY),
    ("mkldnn_rnn_layer mkldnn_rnn_layer_backward", HEAVY),
    # this package's ops over a recurrent layer's time: linear in the gradient and in the slopes of the gates
    ("lstm_forward gru_forward rnn_forward lstm_backward gru_backward rnn_backward", HEAVY),
    ("previous_rows", EXACT_ONLY),
    *((name, HEAVY) for name in sorted(ATTENTION)),
    *((name, replace(HEAVY, tolerant=values)) for name, values in ATTENTION_BACKWARD.items()),
    ("native_layer_norm_backward native_group_norm_backward native_dropout_backward", BACKWARD),
    ("_softmax_backward_data _log_softmax_backward_data", BACKWARD),
    ("avg_pool2d_backward _adaptive_avg_pool2d_backward", BACKWARD),
    ("upsample_nearest2d_backward upsample_bilinear2d_backward", BACKWARD),
    ("sigmoid_backward tanh_backward gelu_backward silu_backward softplus_backward mish_backward", BACKWARD),
    # reads only the shape of the activation; exact indices decide where the gradient goes
    ("max_pool2d_with_indices_backward", BACKWARD),
    ("embedding_dense_backward", replace(BACKWARD, tolerant=(0,))),
    ("scatter_add scatter index_add", replace(BACKWARD, tolerant=(0, 3))),
    ("index_put", replace(BACKWARD, tolerant=(0, 2))),
)
UNKNOWN = OpTraits()


def _table(rows: tuple[tuple[str, OpTraits], ...]) -> dict[str, OpTraits]:
    """Op name -> traits. Raises ValueError for a name in two rows."""
    table: dict[str, OpTraits] = {}
    for names, row in rows:
        for name in names.split():
            if name in table:
                raise ValueError(f"{name} has two rows in the table of ops: one row holds all that is known of an op.")
            table[name] = row
    return table


TABLE = _table(ROWS)


def name_of(node: fx.Node) -> str:
    """The op's name without namespace and overload: 'relu', 'add', 'getitem', ...; '' for a non-call."""
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return getattr(target, "__name__", str(target))


def label_of(node: fx.Node) -> str:
    """What the reports call a value: the name of its op, or 'input' for an input of the graph."""
    return "input" if node.op == "placeholder" else name_of(node)


def traits(node: fx.Node) -> OpTraits:
    """The row of a node's op; a row without traits for a node that is no call, or whose op has no row."""
    return TABLE.get(name_of(node), UNKNOWN)


VIEWS = frozenset(name for name, row in TABLE.items() if row.view)
CASTS = frozenset(name for name, row in TABLE.items() if row.cast)
COMPARISONS = frozenset(name for name, row in TABLE.items() if row is COMPARISON)
# Ops whose result has the input's shape, each element of which depends only on the same element.
ELEMENT_PRESERVING = CASTS | {"alias", "detach"}


def skip_ops(node: fx.Node, names: frozenset[str]) -> fx.Node:
    """The node reached by following first arguments upwards from `node` while the op's name is in `names`."""
    while name_of(node) in names and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node
