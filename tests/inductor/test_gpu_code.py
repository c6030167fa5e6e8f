"""What is compiled for a GPU, seen without one: the Triton code compiles, and computes the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import pytest
import torch
from torch import Tensor, nn

from approx_fx.chunk import region
from approx_fx.passes import chunk_loss
from tests.support import interpreted
from tests.support.losses import LOSSES, Head
from tests.support.nets import PATTERNS, bottlenecks

pytest.importorskip("triton", reason="triton is not installed: Inductor writes no code for a GPU")

import triton

from tools.lib.measuring.triton_code import Half, triton_code

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OLD = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)
compiles = pytest.mark.skipif(INTERPRETED, reason="here Triton interprets; the other process compiles")
interprets = pytest.mark.skipif(not INTERPRETED, reason="test_in_the_interpreter runs this in a process apart")


class Dense(nn.Module):
    """DenseNet's block: each layer reads all that came before, normalised anew."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 24, 32]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, 8, 3, padding=1, bias=False) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(norm(x).relu())], 1)
        return x


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    **{name: PATTERNS[name] for name in ("conv_bn_relu", "residual", "pre_activation", "gelu_block", "swiglu")},
    "bottlenecks": lambda: bottlenecks(False, 8, 8),
    "bottlenecks, channels last": lambda: bottlenecks(True, 8, 8),
    "dense": lambda: (Dense(), (torch.randn(8, 3, 6, 6),)),
    "loss in chunks": lambda: (Head(LOSSES["mean"], bias=True), (torch.randn(64, 32), torch.randint(512, (64,)))),
}
CASES = [(name, 4) for name in NETS] + [("conv_bn_relu", 2), ("conv_bn_relu", 8)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a loss of 64 rows computed in four chunks."""
    monkeypatch.setattr(region, "LEAST_ELEMENTS", 4096)
    monkeypatch.setattr(chunk_loss, "CHUNK_BYTES", {"cuda": 1})
    monkeypatch.setattr(chunk_loss, "LEAST_ROWS", {"cuda": 16})


def values_of(half: Half) -> list[Tensor]:
    """Inputs for a half, on the CPU: numbers, positive where a variance is wanted."""
    made: list[Tensor] = []
    for node in half.graph.graph.find_nodes(op="placeholder"):
        like = node.meta["val"]
        value = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
        made.append(value.uniform_(-1, 1) if like.is_floating_point() and like.ndim > 1 else value.fill_(1))
    return made


def as_laid_out(value: Tensor, like: Tensor) -> Tensor:
    """The same numbers, in the order that a GPU's convolutions give them."""
    return torch.empty_strided(like.shape, like.stride(), dtype=value.dtype).copy_(value)


@interprets
@pytest.mark.parametrize(("name", "bits"), CASES)
def test_it_computes_what_the_ops_do(name: str, bits: int) -> None:
    """Both halves: Triton's kernels against the graph, whose ops run one by one."""
    from tests.support import triton_runner

    torch.manual_seed(0)
    model, inputs = NETS[name]()
    forward, backward = triton_code(model, inputs, bits=bits, min_bytes=0)
    assert forward.kernels and backward.kernels
    given = values_of(forward)
    ours = triton_runner.run_wrapper(forward.wrapper, [value.clone() for value in given])
    theirs = triton_runner.run_graph(forward.graph, [value.clone() for value in given])
    coded, scaled = 0, any(value.dtype == torch.bfloat16 for value in ours)
    for own, other in zip(ours, theirs, strict=True):
        if isinstance(own, Tensor) and own.dtype == torch.uint8:
            # Statistics differ in their last digit, and so, seldom, does a code at an edge of its bin. The interpreter
            # cuts a group's scale off where bfloat16 ends and does not round it: 4-bit codes differ up to 15 in 256.
            assert own.shape == other.shape and own.stride() == other.stride()
            parts = [(each.int().unsqueeze(-1) >> torch.arange(0, 8, bits)) % 2**bits for each in (own, other)]
            assert (parts[0] - parts[1]).abs().max() <= 1
            assert (parts[0] != parts[1]).float().mean() < (0.06 if scaled else 2e-3)
            coded += 1
        elif isinstance(own, Tensor):
            cut = own.dtype == torch.bfloat16
            torch.testing.assert_close(own, other, rtol=2**-7 if cut else 1e-4, atol=0 if cut else 1e-4)
    assert coded
    placeholders = backward.graph.graph.find_nodes(op="placeholder")
    tangents = [node for node in placeholders if "tangents" in node.name]
    count = len(placeholders) - len(tangents)
    given = [*theirs[len(theirs) - count :], *(torch.randn(node.meta["val"].shape) for node in tangents)]
    given = [as_laid_out(value, node.meta["val"]) for value, node in zip(given, placeholders, strict=True)]
    ours = triton_runner.run_wrapper(backward.wrapper, [value.clone() for value in given])
    theirs = triton_runner.run_graph(backward.graph, [value.clone() for value in given])
    for own, other in zip(ours, theirs, strict=True):
        if isinstance(own, Tensor):
            assert (own - other).norm() <= 1e-4 * other.norm() + 1e-6


@pytest.mark.slow
@compiles
@pytest.mark.skipif(
    OLD and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4),
    reason="Triton 3.6's interpreter can't loop to a bound under numpy 2.4 and later",
)
def test_in_the_interpreter() -> None:
    """The test above, in a process where Triton interprets kernels."""
    assert interpreted.passed(__file__) == len(CASES)


def compiled(name: str, source: str, folder: Path) -> list[Any]:
    """A kernel of Inductor's, compiled by Triton in each of the ways that Inductor would try on a GPU."""
    from torch._inductor import config
    from torch._inductor.runtime import triton_helpers

    path = folder / f"{name}.py"  # Triton reads a kernel's source from its file
    path.write_text(source)
    scope: dict[str, Any] = {"__file__": str(path), "__name__": name}
    with (
        mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None),
        config.patch(use_static_cuda_launcher=False),
    ):
        exec(compile(source, str(path), "exec"), scope)
        kernel = scope[name]
        return [kernel._precompile_config(each).kernel for each in kernel.configs]


@pytest.mark.triton
@compiles
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_it_compiles(dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch at which the reductions of channels' statistics are split, and end in a kernel of few rows."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    model, inputs = bottlenecks(True, 128, 28, 64, 0)
    for half in triton_code(model, inputs, dtype, bits=4, min_bytes=0):
        assert half.kernels
        for name, source in half.kernels.items():
            for made in compiled(name, source, tmp_path):
                assert made.asm["cubin"][:4] == b"\x7fELF"


@pytest.mark.slow
@compiles
def test_a_decoded_branch_reads_no_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a norm made of a coded value comes from the codes and their grid, and no gradient changes by that."""
    model, inputs = bottlenecks(True, 8, 28, 64)
    halves = triton_code(model, inputs, bits=4, min_bytes=0)
    ops = [node for node in halves[1].graph.graph.nodes if node.op == "call_function"]
    assert not [node for node in ops if "dequantize_channel.default" in str(node.target)]
    centred = [node for node in ops if "dequantize_centred" in str(node.target)]
    assert {(rows_of(node.args[1]), node.args[4]) for node in centred} == {(0, True), (4, False), (6, False), (6, True)}
    monkeypatch.setattr("approx_fx.passes.fold_batch_norm.FoldBatchNorm.__call__", lambda self, partition: partition)
    decoded = triton_code(model, inputs, bits=4, min_bytes=0)
    signs = [v.uniform_(-1, 1) if v.ndim == 1 else v for v in values_of(halves[0])]
    ours, theirs = gradients(halves, signs), gradients(decoded, signs)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).norm() <= 1e-5 * other.norm() + 1e-6
    assert sum(map(len, map(saved, halves[1:]))) < sum(map(len, map(saved, decoded[1:])))


def rows_of(grid: Any) -> int:
    """Of a grid in a graph, or of none."""
    return 0 if grid is None else grid.meta["val"].shape[0]


def saved(backward: Half) -> list[Any]:
    """What it is given but gradients."""
    return [node for node in backward.graph.graph.find_nodes(op="placeholder") if "tangents" not in node.name]


def gradients(halves: list[Half], inputs: list[Tensor]) -> list[Tensor]:
    """What both halves compute, their ops run one by one, for a gradient of random numbers."""
    from tests.support import triton_runner

    forward, backward = halves
    given = triton_runner.run_graph(forward.graph, [value.clone() for value in inputs])
    placeholders = backward.graph.graph.find_nodes(op="placeholder")
    generator = torch.Generator().manual_seed(0)
    tangents = [node for node in placeholders if "tangents" in node.name]
    given = given[len(given) - len(saved(backward)) :]
    given += [torch.randn(node.meta["val"].shape, generator=generator) for node in tangents]
    given = [as_laid_out(value, node.meta["val"]) for value, node in zip(given, placeholders, strict=True)]
    return [value for value in triton_runner.run_graph(backward.graph, given) if isinstance(value, Tensor)]


@compiles
def test_more_than_one_graph_is_refused() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            torch._dynamo.graph_break()
            return self.b(x)

    with pytest.raises(RuntimeError, match=r"Broken makes 2 graphs that are trained; one is expected\."):
        triton_code(Broken(), (torch.randn(2, 3, 8, 8),), bits=4)
