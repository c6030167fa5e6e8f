"""Each pass on a small graph, before and after, as a difference of texts.

`UPDATE_EXPECTED=1 pytest tests/passes/test_each_pass.py` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from approx_fx.config import Config
from approx_fx.joint.graph import classify
from approx_fx.passes.chunk_loss import chunk_losses
from approx_fx.passes.pipeline import lowering_passes, partitioning_passes
from approx_fx.passes.state import Partition
from approx_fx.passes.verify import Verify
from approx_fx.plan.plan import plan
from tests.support.capture import capture
from tools.lib.measuring.triton_code import emulated_gpu, moved_to_gpu

Example = tuple[nn.Module, Tensor]
EXPECTED = Path(__file__).parent / "expected" / "passes"


def convolutions() -> Example:
    """Two convolutions with a batch norm and a ReLU between them."""
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8, affine=False, track_running_stats=False), nn.ReLU(),
        nn.Conv2d(8, 4, 1, bias=False),
    )  # fmt: skip
    return model, torch.randn(8, 4, 8, 8)


def tanh_of_a_product() -> Example:
    """What a tanh's argument is decoded for."""

    class Curve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(32, 32, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            return (x * torch.tanh(x)).mean(0)

    return Curve(), torch.randn(64, 32)


def concatenated_relus() -> Example:
    """Three ReLUs side by side, read by a product."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(3))
            self.last = nn.Linear(96, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([torch.relu(layer(x)) for layer in self.layers], 1))

    return Rows(), torch.randn(32, 32)


def symbolic_batch() -> Example:
    """A masked value, the length of which is a symbol."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            return torch.where(x.mean(1, keepdim=True) > x, x, 0.0)

    x = torch.randn(64, 16)
    torch._dynamo.mark_dynamic(x, 0)
    return Masked(), x


def loss_of_logits() -> Example:
    """A cross entropy by hand, of logits in two chunks."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(32, 8192, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.logsumexp(self.head(x), 1).mean()

    return Loss(), torch.randn(256, 32, requires_grad=True)


def tied_embedding() -> Example:
    """A weight that is two embeddings and the head behind them."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(64, 16)

        def forward(self, tokens: Tensor) -> Tensor:
            hidden = torch.relu(self.embedding(tokens)) + torch.relu(self.embedding(tokens.flip(0)))
            return hidden @ self.embedding.weight.T

    return Tied(), torch.randint(64, (8,))


# pass -> the graph that shows what it does, and whether it lies on a GPU
def attention() -> Example:
    """Queries, keys and values of one product."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Attend(), torch.randn(2, 16, 16)


CASES: dict[str, tuple[Callable[[], Example], bool]] = {
    "InsertQuantize": (convolutions, False),
    "InsertDequantize": (convolutions, False),
    "FoldBatchNorm": (convolutions, True),
    "SplitHalves": (convolutions, False),
    "UnrollChunks": (loss_of_logits, False),
    "SplitConvBackward": (convolutions, False),
    "AccumulateScatters": (tied_embedding, False),
    "NormaliseAttention": (attention, False),
    "FastTanh": (tanh_of_a_product, False),
    "ConcatenateCodes": (concatenated_relus, False),
    "InlineOps": (symbolic_batch, False),
}


def text(partition: Partition) -> list[str]:
    """The graphs of a partition, one node a line."""
    if partition.halves is None:
        return _lines(partition.plan.joint.module)
    forward, backward = map(_lines, partition.halves)
    return ["forward:", *forward, "backward:", *backward]


def _lines(module: fx.GraphModule) -> list[str]:
    lines = []
    for node in module.graph.nodes:
        value = node.meta.get("val")
        kind = f": {str(value.dtype)[6:]}{list(value.shape)}" if isinstance(value, Tensor) else ""
        arguments = ", ".join(map(str, (*node.args, *(f"{name}={item}" for name, item in node.kwargs.items()))))
        name = node.target.__name__ if isinstance(node.target, FunctionType) else str(node.target)
        what = node.op if node.op in ("placeholder", "output") else name
        lines.append(f"{node.name}{kind} = {what}({arguments})")
    return lines


def test_every_pass_has_a_case() -> None:
    config = Config()
    passes = (*partitioning_passes(config), *lowering_passes("fused"))
    assert {type(each).__name__ for each in passes} - {Verify.__name__} == CASES.keys()


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13"), reason="the texts are those of torch 2.13's decompositions"
)
@pytest.mark.parametrize("name", CASES)
def test_before_and_after(name: str) -> None:
    build, on_gpu = CASES[name]
    model, x = build()
    texts: list[list[str]] = []

    def look(joint: fx.GraphModule, num_fwd_outputs: int) -> None:
        if on_gpu:
            moved_to_gpu(joint)
        near: Any = emulated_gpu() if on_gpu else contextlib.nullcontext()
        config = Config(min_bytes=256)
        with near:
            chunk_losses(joint, num_fwd_outputs)
            partition = Partition(plan(classify(joint, num_fwd_outputs), config))
            for each in (*partitioning_passes(config), *lowering_passes("fused")):
                before = text(partition)
                partition = each(partition)
                if type(each).__name__ == name:
                    texts.extend([before, text(partition)])
                    return

    capture(model, x, run=False, look=look, min_bytes=256)
    before, after = texts
    difference = "\n".join(difflib.unified_diff(before, after, "before", "after", n=2, lineterm="")) + "\n"
    path = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(difference)
    assert difference == path.read_text() and len(difference) > 1
