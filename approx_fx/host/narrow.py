"""torch._inductor's Triton: a gradient in 16 bits that is read again in 32 stays in 16 in memory.

Inductor gives what is read often memory of its own. Where that is a gradient cast up for batch normalisation, it is
the cast that gets it: twice the bytes of what was cast, written once and read by each reader.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any
from unittest import mock

import torch
from torch import fx


@contextlib.contextmanager
def casts_made_anew(half: fx.GraphModule, ours: Collection[Any]) -> Iterator[None]:
    """Inductor inside keeps what is cast, and casts it for each reader. For one compile at a time.

    Only if `half` is a backward that calls one of `ours`: elsewhere a rounding more would show.
    """
    from torch._inductor import lowering
    from torch._inductor.ir import Pointwise, StorageBox, TensorBox

    nodes = half.graph.nodes
    if not (any(node.target in ours for node in nodes) and any(n.name.startswith("tangents") for n in nodes)):
        yield
        return
    convert = torch.ops.prims.convert_element_type.default
    lowerings: dict[Any, Any] = lowering.lowerings
    cast, theirs = lowerings[convert], StorageBox.should_realize_on_reuse
    made: dict[int, tuple[Any, Any]] = {}

    def casting(x: Any, dtype: torch.dtype) -> Any:
        result = cast(x, dtype)
        boxes = [box.data for box in (x, result) if isinstance(box, TensorBox) and isinstance(box.data, StorageBox)]
        if len(boxes) == 2 and _widens(x, dtype) and isinstance(boxes[0].data, Pointwise):
            made[id(boxes[1])] = (boxes[1], x)
        return result

    def realizes(self: Any, users: int, **how: Any) -> bool:
        answer: bool = theirs(self, users, **how)
        _, source = made.get(id(self), (None, None))
        if not answer or source is None or not isinstance(self.data, Pointwise):
            return answer
        source.realize()
        self.data = cast(source, self.data.get_dtype()).data.data
        return False

    with (
        mock.patch.dict(lowerings, {convert: casting}),
        mock.patch.object(StorageBox, "should_realize_on_reuse", realizes),
    ):
        yield


def _widens(x: Any, dtype: torch.dtype) -> bool:
    narrow = x.get_dtype() in (torch.bfloat16, torch.float16) and dtype == torch.float32
    return narrow and x.get_device().type != "cpu"
