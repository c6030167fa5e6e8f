"""Freed buffers are kept for later ones by the bytes that are really alive, so that the peak does not rise."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sympy
import torch
from torch import nn
from torch._inductor.virtualized import V

import approx_fx
from approx_fx.inductor import peak_estimate
from approx_fx.inductor.switches import VARIABLE
from approx_fx.peak.timeline import Timeline, timeline
from models.preact_resnet import preact_resnet20_net
from models.vit import ViT


def step(monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], estimated: bool) -> Timeline:
    """A step on 16 images, with or without the patch."""
    torch.manual_seed(0)
    model, images = build(), torch.randn(16, 3, 32, 32)
    torch._dynamo.reset()
    with monkeypatch.context() as patch, torch._inductor.config.patch(force_disable_caches=True):
        if not estimated:
            patch.setenv(VARIABLE, "peak_estimate")
        run = approx_fx.convert(model, bits=4)
        return timeline(lambda: run(images).square().mean().backward())


@pytest.mark.cpp
def test_idle_buffers_do_not_raise_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a transformer whose hidden layers are four times as wide as what runs between its blocks."""
    peaks = [step(monkeypatch, lambda: ViT(2, 64, 4, 4, 32, 10, 3), estimated).peak.live for estimated in (True, False)]
    assert peaks[0] < peaks[1]


@pytest.mark.slow
def test_what_is_kept_does_not_raise_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where in-place kernels are taken off what is alive between two uses, too, a buffer too many is kept here."""
    peaks = [step(monkeypatch, preact_resnet20_net, estimated).peak.live for estimated in (True, False)]
    assert peaks[0] <= peaks[1]


def buffer(name: str, size: int) -> Any:
    node = SimpleNamespace(has_tensor_output=lambda: True, get_size=lambda: [size], get_dtype=lambda: torch.float32)
    return SimpleNamespace(node=node, get_name=lambda: name)


def test_what_takes_over_anothers_memory_counts_once() -> None:
    nodes = [SimpleNamespace(get_outputs=lambda own=own: own) for own in ([buffer("a", 5)], [buffer("b", 5)], [])]
    assert peak_estimate.subtract_in_place({"b"}, nodes, [20, 40, 20, 0]) == [20, 20, 20, 0]
    assert peak_estimate.subtract_in_place(set(), nodes, [20, 40, 20, 0]) == [20, 40, 20, 0]


def test_codes_count_once() -> None:
    """Four readings of a byte's parts are estimated as four times the bytes; a size that is a symbol is let be."""
    sizes = {"codes": sympy.Integer(8), "any": sympy.Symbol("s0")}
    graph: Any = SimpleNamespace(get_numel=sizes.__getitem__, get_dtype=lambda _: torch.uint8)
    found = {name: SimpleNamespace(mpi_buffer=SimpleNamespace(size_free=32)) for name in sizes}
    with V.set_graph_handler(graph):
        peak_estimate.count_inputs_once(found)
    assert {name: own.mpi_buffer.size_free for name, own in found.items()} == {"codes": 8, "any": 32}
