"""Measure the bandwidth of the quantizers on a GPU, as Triton kernels and compiled by Inductor, relative to a copy."""

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
    """How to call one quantizer. prepare: tensor [N, C, H, W] -> arguments of the encode op.

    decode_arguments: (tensor, encode arguments, encode output) -> arguments of the decode op.
    """

    name: str
    encode: str
    decode: str
    prepare: Callable[[Tensor], tuple[Any, ...]]
    decode_arguments: Callable[[Tensor, tuple[Any, ...], Any], tuple[Any, ...]]


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
    """Yield the tensors in an argument list or an output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def moved(arguments: Any, outputs: Any) -> int:
    """Bytes read and written, each tensor counted once."""
    return sum(item.numel() * item.element_size() for item in [*tensors(arguments), *tensors(outputs)])


def share(call: Callable[..., Any], argument_lists: list[tuple[Any, ...]], copy: float) -> Json:
    """gigabytes_per_second of `call`, alternating between argument lists, and its share of `copy` (bytes a second)."""
    size = moved(argument_lists[0], call(*argument_lists[0]))
    speed = size / seconds(call, argument_lists)
    return {"gigabytes_per_second": speed / 1e9, "share": speed / copy}


def seconds(call: Callable[..., Any], argument_lists: list[tuple[Any, ...]]) -> float:
    """Median seconds of a call on the GPU, by CUDA events, over ROUNDS of all argument lists, after a warm-up round."""
    for arguments in argument_lists:
        call(*arguments)
    marks = []
    for arguments in argument_lists * ROUNDS:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(*arguments)
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1000


def bandwidths(save: Callable[[Json], None], dtypes: Iterable[str] = tuple(DTYPES), size: int = SIZE) -> Json:
    """Measure rows of op, dtype, kind ('kernel' or 'inductor'), speed and share; all kernels first.

    A row that cannot be measured has `failed`. save: called with the result after every row.
    """
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    targets = [(torch.empty_like(source), source) for _ in range(BUFFERS)]
    copy = 2 * size / seconds(lambda target, source: target.copy_(source), targets)
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
    decoding = [recipe.decode_arguments(image, arguments, encode(*arguments))
                for image, arguments in zip(images, encoding, strict=True)]  # fmt: skip
    label = "bool" if recipe.name == "bitmask" else dtype
    return [
        {"op": name, "dtype": label, "kind": kind, **share(call, argument_lists, copy)}
        for name, call, argument_lists in ((recipe.encode, encode, encoding), (recipe.decode, decode, decoding))
    ]


def _callable(name: str, kind: str) -> Callable[..., Any]:
    if kind == "kernel":
        return OPS[name].overload
    torch._dynamo.reset()
    return torch.compile(OPS[name].reference, dynamic=False)
