"""What kind of thing a value is, where that decides how it is coded: an image with channels, a softmax's output."""

from __future__ import annotations

from torch import fx

from .ops import SAME_PLACE, name_of, through
from .values import shape, tensor

IMAGES = frozenset(
    ["convolution", "upsample_nearest2d", "upsample_bilinear2d", "avg_pool2d", "_adaptive_avg_pool2d", "pixel_shuffle"]
)
DEPTH = 16


def is_image(value: fx.Node) -> bool:
    """Whether a value [N, C, ...] is made or read by a convolution, pointwise ops between them aside."""
    own = tensor(value)
    if own is None or own.ndim < 4:
        return False
    for _ in range(DEPTH):
        if name_of(value) in IMAGES or "max_pool" in name_of(value):
            return True
        if any(name_of(user) == "convolution" and user.args[0] is value for user in value.users):
            return True
        if name_of(value) == "getitem":
            value = value.args[0]  # type: ignore[assignment]
            continue
        same = [i for i in value.all_input_nodes if shape(i) == shape(own)]
        if not same or value.op != "call_function":
            return False
        value = same[0]
    return False


def is_softmax(value: fx.Node) -> bool:
    """Whether the value is exp(x - m) / sum(exp(x - m)), _softmax, or the exponential of a log-softmax.

    Rows that are masked out altogether may be set to 0.
    """
    name = name_of(value)
    if name == "where" and isinstance(value.args[2], fx.Node) and name_of(value.args[2]) == "div":
        return is_softmax(value.args[2])
    if name == "_softmax":
        return True
    if name == "exp":
        logarithm = through(value.args[0], SAME_PLACE)  # type: ignore[arg-type]
        return name_of(logarithm) in ("_log_softmax",) or (
            name_of(logarithm) == "sub"
            and isinstance(logarithm.args[1], fx.Node)
            and name_of(logarithm.args[1]) == "log"
        )
    if name != "div" or not all(isinstance(arg, fx.Node) for arg in value.args[:2]):
        return False
    top, bottom = value.args[:2]
    return name_of(top) == "exp" and name_of(bottom) == "sum" and bottom.args[0] is top  # type: ignore[union-attr, arg-type]
