"""Bandwidth of the quantizers' kernels on a GPU, and of the references that Inductor compiles, against a copy's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from approx_fx.ops import OPS

Json = dict[str, Any]
BITS, SIZE, BUFFERS, ROUNDS = 4, 256 * 2**20, 3, 4
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DIM, GROUP, PACK = 1, 256, 0


@dataclass(frozen=True)
class Recipe:
    """One quantizer: from a tensor [N, C, H, W] the arguments of its op, from those and its output its decoder's."""

    name: str
    encode: str
    decode: str
    prepare: Callable[[Tensor], tuple[Any, ...]]
    back: Callable[[Tensor, tuple[Any, ...], Any], tuple[Any, ...]]


def _channel(x: Tensor) -> tuple[Any, ...]:
    rows = [torch.full((x.shape[DIM],), value, device=x.device) for value in (0.0, 1.0, 1.0, 0.1)]
    grid = OPS["channel_grid"].reference(*rows, 0.0, BITS, "gaussian")
    return x, grid, None, BITS, DIM, PACK


RECIPES = (
    Recipe("channel", "quantize_channel", "dequantize_channel", _channel,
           lambda x, args, out: (out, args[1], BITS, DIM, PACK, len(x), x.dtype)),
    Recipe("group", "quantize_group", "dequantize_group", lambda x: (x, BITS, DIM, GROUP, [], PACK),
           lambda x, args, out: (*out, BITS, DIM, GROUP, PACK, len(x), x.dtype)),
    Recipe("relu", "quantize_relu", "dequantize_relu", lambda x: (torch.relu(x), None, BITS, DIM, GROUP, [], PACK),
           lambda x, args, out: (*out, BITS, DIM, GROUP, PACK, len(x), x.dtype)),
    Recipe("unit", "quantize_unit", "dequantize_unit", lambda x: (torch.sigmoid(x), 0.0, 1.0, BITS, PACK),
           lambda x, args, out: (*out, 0.0, 1.0, BITS, PACK, len(x), x.dtype)),
    Recipe("bitmask", "quantize_bitmask", "dequantize_bitmask", lambda x: (x > 0, PACK),
           lambda x, args, out: (out, PACK, len(x))),
)  # fmt: skip


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument list or an output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def moved(arguments: Any, outputs: Any) -> int:
    """Bytes read and written: each tensor once."""
    return sum(item.numel() * item.element_size() for item in [*tensors(arguments), *tensors(outputs)])


def share(call: Callable[..., Any], every: list[tuple[Any, ...]], copy: float) -> Json:
    """gigabytes_per_second of `call` over argument lists that take turns, and its share of `copy` (bytes a second)."""
    size = moved(every[0], call(*every[0]))
    speed = size / seconds(call, every)
    return {"gigabytes_per_second": speed / 1e9, "share": speed / copy}


def seconds(call: Callable[..., Any], every: list[tuple[Any, ...]]) -> float:
    """Median seconds of a call on the GPU, by events, over ROUNDS of all argument lists, after one round."""
    for arguments in every:
        call(*arguments)
    marks = []
    for arguments in every * ROUNDS:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(*arguments)
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1000


def bandwidths(save: Callable[[Json], None], dtypes: Iterable[str] = tuple(DTYPES), size: int = SIZE) -> Json:
    """Rows of op, dtype, kind ('kernel' or 'inductor'), speed and share; every kernel first, then Inductor's.

    A row that cannot be measured has `failed`. save is called with the result after every row.
    """
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    targets = [(torch.empty_like(source), source) for _ in range(BUFFERS)]
    copy = 2 * size / seconds(lambda to, come: to.copy_(come), targets)
    del source, targets
    rows: list[Json] = []
    result = {"copy_gigabytes_per_second": copy / 1e9, "bits": BITS, "rows": rows}
    for kind in ("kernel", "inductor"):
        for recipe in RECIPES:
            for name in dtypes if recipe.name != "bitmask" else ("float32",):
                try:
                    rows.extend(_measured(recipe, kind, name, size, copy))
                except Exception as error:
                    text = str(error).strip().splitlines()
                    row = {"op": recipe.name, "dtype": name, "kind": kind}
                    rows.append({**row, "failed": f"{type(error).__name__}: {text[0] if text else ''}"})
                save(result)
                torch.cuda.empty_cache()
    return result


def _measured(recipe: Recipe, kind: str, dtype: str, size: int, copy: float) -> list[Json]:
    width = 1 if recipe.name == "bitmask" else DTYPES[dtype].itemsize
    shape = (size // (width * 256 * 32 * 32), 256, 32, 32)
    images = [torch.randn(shape, device="cuda").to(DTYPES[dtype], memory_format=torch.channels_last)
              for _ in range(BUFFERS)]  # fmt: skip
    encode, decode = (_callable(name, kind) for name in (recipe.encode, recipe.decode))
    encoding = [recipe.prepare(image) for image in images]
    decoding = [recipe.back(image, arguments, encode(*arguments))
                for image, arguments in zip(images, encoding, strict=True)]  # fmt: skip
    label = "bool" if recipe.name == "bitmask" else dtype
    return [
        {"op": name, "dtype": label, "kind": kind, **share(call, every, copy)}
        for name, call, every in ((recipe.encode, encode, encoding), (recipe.decode, decode, decoding))
    ]


def _callable(name: str, kind: str) -> Callable[..., Any]:
    if kind == "kernel":
        return OPS[name].overload
    torch._dynamo.reset()
    return torch.compile(OPS[name].reference, dynamic=False)
