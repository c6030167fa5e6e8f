"""Inductor's code for a GPU, run without one: Triton interprets the kernels, on tensors of the CPU.

Only in a process in which TRITON_INTERPRET=1 was set before Triton was imported.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor, fx
from torch.utils._pytree import tree_map
from triton.runtime.interpreter import TensorHandle

from tools.lib.measuring.triton_code import convolution_layout

HEURISTICS = re.compile(r"@triton_heuristics\..*?(?=@triton\.jit)", re.DOTALL)
# Elements of a program, along the first dimension and along a reduction. Few large programs are interpreted fastest,
# but what is combined along a row goes one by one.
BLOCK, ROW = 2**12, 2**5
NUMPY: dict[str, Callable[..., Any]] = {
    "nearbyint": np.rint,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "erf": lambda x: torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy(),
}


class Device:
    """In the place of CUDA's device library: numpy's functions of the same names, of one argument."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        function = NUMPY.get(name) or getattr(np, name)

        def call(x: Any) -> Any:
            result = function(x.handle.data)
            kind = tl.int1 if result.dtype == np.bool_ else x.dtype
            return tl.tensor(TensorHandle(result, kind), tl.block_type(kind, list(x.shape)) if x.shape else kind)

        return call


class Kernel:
    """One Triton kernel as Inductor wrote it."""

    def __init__(self, name: str, source: str) -> None:
        text = HEURISTICS.sub("", source.replace("triton_helpers.set_driver_to_gpu()", ""))
        scope: dict[str, Any] = {}
        exec(compile(text, f"<{name}>", "exec"), scope)
        scope["libdevice"] = scope["tl_math"] = Device()
        self.function = scope[name]
        self.function.fn.__globals__.update(libdevice=Device(), tl_math=Device())
        self.names = list(self.function.arg_names)

    def run(self, *args: Any, stream: Any = None) -> None:
        """Launch it with the pointers and sizes that the wrapper gives."""
        given = dict(zip([name for name in self.names if not name.endswith("BLOCK")], args, strict=True))
        blocks = {name: ROW if name.startswith("R") else 1 for name in self.names if name.endswith("BLOCK")}
        reduces = any(re.fullmatch(r"r\d_numel", name) for name in given)
        grid = []
        for axis in "xyz":
            size = given.get(f"{axis}numel")
            if f"{axis.upper()}BLOCK" in blocks:
                most = (2**9 if reduces else BLOCK) if axis == "x" else 32
                blocks[f"{axis.upper()}BLOCK"] = min(triton.next_power_of_2(size), most)
            grid.append(triton.cdiv(size, blocks.get(f"{axis.upper()}BLOCK", 1)) if size else 1)
        self.function[tuple(grid)](**given, **blocks)


class Kernels:
    """In the place of AsyncCompile."""

    def triton(self, name: str, source: str, **_: Any) -> Kernel:
        """The kernel, to be interpreted."""
        return Kernel(name, source)

    def wait(self, _: Any) -> None:
        """Nothing is compiled."""


def run_wrapper(wrapper: str, inputs: list[Tensor]) -> list[Any]:
    """What Inductor's code returns for tensors of the CPU."""
    text = wrapper.replace("async_compile = AsyncCompile()", "async_compile = _kernels")
    text = re.sub(r"^.*_cuda_getCurrentRawStream.*$", "get_raw_stream = int", text, flags=re.MULTILINE)
    scope: dict[str, Any] = {"__name__": "interpreted", "_kernels": Kernels()}
    exec(compile(text, "<wrapper>", "exec"), scope)
    for name in [name for name in scope if name.startswith("empty_strided_")]:
        scope[name] = lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype)
    scope["extern_kernels"] = Extern()
    with mock.patch("torch.cuda._DeviceGuard", contextlib.nullcontext), mock.patch("torch.cuda.set_device"):
        return list(scope["call"](list(inputs)))


class Extern:
    """In the place of Inductor's table of called ops: convolutions lie as cuDNN's do."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from torch._inductor.select_algorithm import extern_kernels

        return getattr(extern_kernels, name)  # type: ignore[no-any-return]

    def convolution(self, image: Tensor, weight: Tensor, **given: Any) -> Tensor:
        """Channels-last if an operand is."""
        result = torch.convolution(image, weight, **given)
        return result.contiguous(memory_format=convolution_layout(image, weight, None))


def run_graph(graph: fx.GraphModule, inputs: list[Tensor]) -> list[Any]:
    """What a graph of values that lie on a GPU returns, its ops run one by one on the CPU."""
    for node in graph.graph.nodes:
        node.args, node.kwargs = tree_map(
            lambda item: torch.device("cpu") if isinstance(item, torch.device) else item, (node.args, dict(node.kwargs))
        )
    graph.recompile()
    return list(graph(*inputs))
