"""What the code for a GPU moves and holds, seen without one: little, and each thing once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.nets import bottlenecks

pytest.importorskip("triton", reason="triton is not installed: Inductor writes no code for a GPU")

from approx_fx.inductor import choices, materialize
from approx_fx.peak.timeline import accesses, predict
from tools.lib.measuring.triton_code import Half, triton_code

SYSTEMS: dict[str, int | None] = {"compile": None, "approx_fx": 4}


def moved(halves: tuple[Half, Half]) -> dict[str, int]:
    """Bytes that the kernels of each phase read and write."""
    found = {"forward": 0, "backward": 0}
    for phase, access in accesses([half.wrapper for half in halves]):
        found[phase] += (access.read + access.written) * (access.kind == "kernel")
    return found


def saved(halves: tuple[Half, Half]) -> int:
    """Bytes of the codes that go from one half to the other."""
    nodes = halves[1].graph.graph.find_nodes(op="placeholder")
    values = [node.meta["val"] for node in nodes if node.meta["val"].dtype == torch.uint8]
    return sum(value.numel() for value in values)


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_a_block_packs_where_it_writes(last: bool) -> None:
    """The forward moves what torch.compile's does, and writes its codes and masks: nothing is read for them."""
    model, inputs = bottlenecks(last, 32, 28, 64)
    exact = triton_code(model, inputs, torch.bfloat16, bits=None)
    ours = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    more = moved(ours)["forward"] - moved(exact)["forward"]
    assert saved(ours) <= more <= 1.05 * saved(ours)
    assert moved(ours)["backward"] < 0.8 * moved(exact)["backward"]
    peaks = [predict([half.wrapper for half in halves]).peak.live for halves in (ours, exact)]
    assert peaks[0] < 0.55 * peaks[1]


@pytest.mark.parametrize("bits", [2, 4])
def test_tiles_are_packed_where_they_are_reduced(bits: int) -> None:
    """What is coded with scales of its own is read once: no kernel writes codes for another to pack."""
    layers = [layer for _ in range(3) for layer in (nn.Linear(256, 256), nn.GELU())]
    forward, backward = triton_code(nn.Sequential(*layers), (torch.randn(128, 256),), bits=bits, min_bytes=0)
    made = re.findall(r"empty_strided_cuda\(\((.*?)\), \(.*?\), torch\.uint8\)", forward.wrapper)
    sizes = [math.prod(map(int, re.findall(r"\d+", shape))) for shape in made]
    assert sum(sizes) == saved((forward, backward)) > 0
    assert forward.kernels and not any("_red_" in name for name in forward.kernels)


@pytest.mark.triton
def test_gradients_stay_in_sixteen_bits() -> None:
    """A block's gradient, which two norms read as float32, is written in bfloat16; in float32 under torch.compile."""
    model, inputs = bottlenecks(True, 128, 28, 64)
    whole = re.compile(r"empty_strided_cuda\(\(128, 256, 28, 28\), \(.*?\), torch\.float32\)")
    ours, exact = (triton_code(model, inputs, torch.bfloat16, bits=bits, min_bytes=0)[1].wrapper for bits in (4, None))
    assert whole.search(exact) and not whole.search(ours)


def test_rows_and_columns_of_what_is_decoded_are_summed_apart() -> None:
    layers = [layer for _ in range(2) for layer in (nn.Linear(384, 384), nn.LayerNorm(384))]
    model, inputs = nn.Sequential(*layers, nn.Linear(384, 384)), (torch.randn(25216, 384),)
    ours, exact = (triton_code(model, inputs, torch.bfloat16, bits=bits, min_bytes=0)[1].wrapper for bits in (4, None))
    assert "RSPLIT_SIZE" in exact and "RSPLIT_SIZE" not in ours


class Turned(nn.Module):
    """ConvNeXt's block: a convolution of each channel, then products along the channels, which lie innermost."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.down(nn.functional.gelu(self.up(y))).permute(0, 3, 1, 2)


@pytest.mark.triton
def test_what_is_turned_is_not_turned_again() -> None:
    """Inductor's layout for convolutions is not that of values with channels innermost: nothing is copied."""
    stem = nn.Conv2d(3, 128, 2, 2)
    model, inputs = nn.Sequential(stem, *(Turned(128) for _ in range(3))), (torch.randn(16, 3, 32, 32),)
    exact = triton_code(model, inputs, torch.bfloat16, bits=None)
    ours = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    assert moved(ours)["backward"] < 1.35 * moved(exact)["backward"]


@pytest.mark.triton
def test_masks_of_any_activation_are_packed_where_it_is_written() -> None:
    """ReLU6: its input, its two comparisons and its codes go no way through memory."""
    layers: list[nn.Module] = []
    for width in (3, 64, 64):
        layers += [nn.Conv2d(width, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6()]
    model = nn.Sequential(*layers, nn.Conv2d(64, 8, 1)).to(memory_format=torch.channels_last)
    inputs = (torch.randn(32, 3, 28, 28).to(memory_format=torch.channels_last),)
    exact = triton_code(model, inputs, torch.bfloat16, bits=None)
    ours = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    more = moved(ours)["forward"] - moved(exact)["forward"]
    assert saved(ours) <= more <= 1.05 * saved(ours)


@pytest.mark.triton
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda width: nn.GroupNorm(8, width)], ids=["batch", "group"])
def test_what_little_is_read_for_is_made_anew(norm: Callable[[int], nn.Module]) -> None:
    """SiLU's argument, which it and its slope read, is decoded by each: in float32 it would be most of what moves."""
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(64, 64, 1, bias=False), norm(64), nn.SiLU())]
    model = nn.Sequential(nn.Conv2d(3, 64, 1), *layers, nn.Conv2d(64, 8, 1)).to(memory_format=torch.channels_last)
    inputs = (torch.randn(32, 3, 28, 28).to(memory_format=torch.channels_last),)
    exact = triton_code(model, inputs, torch.bfloat16, bits=None)
    ours = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    assert moved(ours)["backward"] < 0.7 * moved(exact)["backward"]


@pytest.mark.triton
def test_a_decoding_is_not_held_for_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels that hold something are fused, as they are on a CPU if they spare more, the peak is higher."""
    model, inputs = bottlenecks(True, 32, 28, 64, more=3)
    ours = predict([half.wrapper for half in triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)])
    holds = choices.extends_live_ranges
    monkeypatch.setattr(choices, "extends_live_ranges", lambda *given: holds(*given[:-1], 2**40))
    fused = predict([half.wrapper for half in triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)])
    assert ours.peak.live < 0.9 * fused.peak.live


@pytest.mark.slow
def test_limits_keep_products_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = bottlenecks(True, 32, 28)
    ours = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    monkeypatch.setattr(materialize, "MAX_OPERATIONS", 30)
    strict = triton_code(model, inputs, torch.bfloat16, bits=4, min_bytes=0)
    assert moved(ours)["backward"] < 0.95 * moved(strict)["backward"]


@pytest.mark.slow
def test_networks_are_counted() -> None:
    """tools/gpu_code.py: the forward moves more by its codes, the peak is lower, and the table's row says so."""
    from tools.gpu_code import count, table

    found = {name: count("models.preact_resnet:preact_resnet20", 64, True, bits) for name, bits in SYSTEMS.items()}
    theirs, ours = found["compile"], found["approx_fx"]
    assert theirs["forward"] < ours["forward"] and ours["backward"] < theirs["backward"]
    assert ours["peak"] < 0.5 * theirs["peak"]
    sizes = {"forward": 2**30, "backward": 3 * 2**30, "peak": 2**29}
    row = {"target": "models.a:net", "batch": 4, "channels_last": True, "compile": sizes, "approx_fx": sizes}
    text = table({"rows": [row], "torch": "2", "date": "2020-01-02T"}).splitlines()
    assert text[2] == "| net, 4, channels-last | 1.00 GiB (1.00) | 3.00 GiB (3.00) | 1.00x | 0.50 GiB (0.50), 1.0x |"
