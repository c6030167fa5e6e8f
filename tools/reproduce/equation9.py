"""Show the effect of Eq. 9 of Chakrabarti and Moseley (NeurIPS 2019), as a picture and a table.

    python -m tools.reproduce equation9

Left: the decoded value that the backward reads for a normalized value z, at 2 and 3 bits, on the paper's grid and on
ours, for a channel whose ReLU has its threshold at z = -0.5. Right: the root mean square error for Gaussian values, at
2 to 8 bits.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from approx_fx.ops import channel
from tools.lib.checkpoint import write_text
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import table

matplotlib.use("Agg")

from matplotlib import pyplot as plt

BITS = tuple(range(2, 9))
SAMPLES = 1 << 18
OFFSET = 0.5  # beta / gamma: z + OFFSET > 0 is the ReLU's mask
GRIDS = {"blpa": ("the paper's", "#D55E00"), "gaussian": ("ours", "#0072B2")}


def read_back(z: Tensor, bits: int, grid: str, offset: float = OFFSET) -> tuple[Tensor, Tensor]:
    """(value, mask) read by the backward for z, float32 [N]; the channel has mean 0, sigma 1, gamma 1, beta `offset`.

    Uses the same ops as training; the mask is bool [N], z + offset > 0.
    """
    one, zero = torch.ones(1), torch.zeros(1)
    channel_grid = channel.channel_grid.overload(zero, one, one, torch.full((1,), offset), 0.0, bits, grid)
    x = z.reshape(-1, 1)
    codes = channel.quantize_channel.overload(x, channel_grid, x + offset > 0, bits, 1, 0)
    value = channel.dequantize_channel.overload(codes, channel_grid, bits, 1, 0, len(x), torch.float32)
    return value[:, 0], channel.dequantize_channel_side.overload(codes, channel_grid, bits, 1, 0, len(x))[:, 0]


def errors(grid: str) -> dict[int, float]:
    """Bits -> root mean square error in sigmas, for SAMPLES Gaussian values."""
    z = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0))
    return {bits: float((read_back(z, bits, grid)[0] - z).square().mean().sqrt()) for bits in BITS}


def draw(path: Path, errors_by_grid: dict[str, dict[int, float]]) -> None:
    """Draw the picture to the PNG `path`. errors_by_grid: grid -> `errors(grid)`."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    z = torch.linspace(-4, 4, 1601)
    for axis, bits in zip(axes[:2], (2, 3), strict=True):
        axis.plot(z, z, color="#999999", linewidth=1, label="exact")
        for grid, (name, colour) in GRIDS.items():
            axis.plot(z, read_back(z, bits, grid)[0], color=colour, linewidth=1.8, label=name)
        axis.axvline(-OFFSET, color="black", linestyle=":", linewidth=1)
        axis.annotate("the ReLU's threshold", (-OFFSET, -3.6), (6, 0), textcoords="offset points")
        axis.set(xlabel="normalised value z (sigmas)", ylabel="what the backward reads", title=f"{bits} bits")
        axis.legend(loc="upper left")
    for grid, (name, colour) in GRIDS.items():
        axes[2].plot(BITS, list(errors_by_grid[grid].values()), "o-", color=colour, label=name)
    axes[2].set(xlabel="bits", ylabel="error (sigmas, root mean square)", yscale="log", title="Gaussian values")
    axes[2].legend()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure(size: Size, out: Path) -> None:
    """Measure both grids and draw the picture; the same for every size."""
    errors_by_grid = {grid: errors(grid) for grid in GRIDS}
    data = {"torch": torch.__version__, "samples": SAMPLES, "rms_error_in_sigmas": errors_by_grid}
    write_text(out / "equation9.json", json.dumps(data, indent=1) + "\n")
    draw(out / "equation9.png", errors_by_grid)


def page(size: Size, out: Path) -> str:
    """The Markdown table of errors, with its footnote."""
    path = out / "equation9.json"
    if not path.exists():
        return "Not measured yet: `python -m tools.reproduce equation9`"
    data = json.loads(path.read_text(encoding="utf-8"))
    errors_by_grid = data["rms_error_in_sigmas"]
    rows = [(str(bits), *(f"{errors_by_grid[grid][str(bits)]:.4f}" for grid in GRIDS)) for bits in BITS]
    heads = ("bits", "error on the paper's grid, sigmas", "on ours")
    foot = (
        f"{data['samples']} values of a Gaussian, torch {data['torch']}, seconds; `python -m tools.reproduce equation9`"
    )
    return f"{table(heads, rows)}\n\n{foot}"
