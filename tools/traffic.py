"""Count the memory traffic of a conv -> BN -> ReLU chain: what a compiled step moves, in activation sizes.

Each loop nest of each generated kernel counts a buffer once if it reads it and once if it writes it. Each op that is
called, such as a convolution, counts its inputs and outputs; a convolution's backward counts its incoming gradient
twice (for the weight and for the input). The figures are differences between a net of LONG chains and one of SHORT,
divided by the difference in chains. The Triton code for a GPU is counted too, on a machine without one; for whole
networks see `tools/gpu_code.py`.

    python tools/traffic.py        writes docs/results/traffic.md, in three minutes
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn

import approx_fx
from approx_fx.peak.dry_run import Access, generated_code
from approx_fx.peak.timeline import accesses
from tools.lib.measuring.triton_code import triton_code
from tools.lib.repo_path import ROOT

SHORT, LONG = 3, 5
CHANNELS, BATCH, SIZE = 64, 32, 32
ACTIVATION = BATCH * CHANNELS * SIZE * SIZE * 4
SYSTEMS: dict[str, dict[str, Any] | None] = {
    "torch.compile": None,
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4},
    "2 bits": {"bits": 2},
}
app = typer.Typer(add_completion=False, help=__doc__)


def chains(count: int) -> nn.Sequential:
    """`count` chains of 3x3 convolution, batch norm and ReLU, followed by a convolution."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False))


def traffic(count: int, options: dict[str, Any] | None) -> Counter[tuple[str, str]]:
    """(phase, kind) -> bytes that one step moves on a CPU; kind: 'op' (convolutions) or 'kernel'."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = chains(count)
    compiled = torch.compile(model) if options is None else approx_fx.convert(model, **options)
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE)
    with generated_code() as sources:
        compiled(x).square().sum().backward()
    moved: Counter[tuple[str, str]] = Counter()
    for phase, access in accesses(sources):
        moved[phase, access.kind] += _bytes(access)
    return moved


def to_channels_last(model: nn.Sequential, x: Tensor) -> tuple[nn.Sequential, Tensor]:
    """The model and its input in channels-last layout."""
    converted: Any = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return converted, x.to(memory_format=torch.channels_last)


def gpu_traffic(count: int, options: dict[str, Any] | None, half: bool) -> Counter[tuple[str, str]]:
    """As `traffic`, from the code for a GPU. half: bfloat16 autocast and channels-last, else float32 and contiguous."""
    model, x = chains(count), torch.randn(BATCH, CHANNELS, SIZE, SIZE)
    if half:
        model, x = to_channels_last(model, x)
    code = triton_code(model, (x,), torch.bfloat16 if half else None, **(options or {"bits": None}))
    moved: Counter[tuple[str, str]] = Counter()
    for phase, access in accesses([part.wrapper for part in code]):
        moved[phase, access.kind] += _bytes(access)
    return moved


def _bytes(access: Access) -> int:
    gradient_read_twice = bool(re.search("convolution_backward", access.name))
    return access.read + access.written + (access.first if gradient_read_twice else 0)


COUNTED = (
    f"Activation sizes read and written a chain (torch {torch.__version__}; {BATCH} x {CHANNELS} x {SIZE} x {SIZE}), "
    f"counted in the generated code by `python tools/traffic.py`: the difference of {LONG} chains and {SHORT}, "
    "halved. Each loop nest of a kernel counts a buffer once for reading and once for writing, a convolution its "
    "inputs and outputs, its backward the gradient twice."
)
HEAD = [
    "| | forward: kernels | backward: kernels | **kernels** | forward: convolution | backward: convolution | all |",
    "|---|---|---|---|---|---|---|",
]


def row(name: str, long: Counter[tuple[str, str]], short: Counter[tuple[str, str]], activation: int) -> str:
    """One system's row: activation sizes moved by one chain, from the counts of a long and a short net."""
    parts = [
        (long[key] - short[key]) / (LONG - SHORT) / activation
        for key in (("forward", "kernel"), ("backward", "kernel"), ("forward", "op"), ("backward", "op"))
    ]
    cells = [f"{part:.2f}" for part in (*parts, sum(parts))]
    return "| " + " | ".join([name, *cells[:2], f"**{parts[0] + parts[1]:.2f}**", *cells[2:]]) + " |"


@app.command()
def main() -> None:
    """Count for each system, print the rows and write traffic.md."""
    lines = ["# Memory traffic of one conv -> BN -> ReLU chain", "", COUNTED]

    def add(line: str) -> None:
        lines.append(line)
        typer.echo(line)

    lines += ["", "On a CPU, C++, float32:", "", *HEAD]
    for name, options in SYSTEMS.items():
        add(row(name, traffic(LONG, options), traffic(SHORT, options), ACTIVATION))
    for half, title in ((False, "float32"), (True, "bfloat16, channels-last")):
        lines += ["", f"On a GPU, Triton, {title}:", "", *HEAD]
        for name, options in SYSTEMS.items():
            long, short = gpu_traffic(LONG, options, half), gpu_traffic(SHORT, options, half)
            add(row(name, long, short, ACTIVATION // 2 if half else ACTIVATION))
    path = ROOT / "docs" / "results" / "traffic.md"
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    app()
