"""What makes the pass itself quick: room on Python's stack, node arguments taken as they are, a faster minimum cut."""

from __future__ import annotations

import contextlib
import resource
from typing import Any

import pytest
import torch
from capture import capture
from nets import Residual, images
from torch import fx
from torch._functorch import config as functorch_config
from torch.utils import _pytree

from approx_fx.host import split, unscanned
from approx_fx.host.frames import roomy

CALLS = 1000


def _faults(frames: int) -> int:
    """Pages mapped by a loop of small calls that starts so many frames deeper."""
    if frames:
        return _faults(frames - 1)

    def small(value: int) -> int:
        return value

    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for value in range(CALLS):
        small(value)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def test_no_loop_behind_a_roomy_call_maps_memory() -> None:
    """Without it, at one depth in some 150 each call of the loop does: its frame begins a chunk of the stack."""
    depths = range(300)
    assert max(map(_faults, depths)) >= CALLS
    assert max(roomy(_faults, depth) for depth in depths) < CALLS / 10


def test_a_roomy_call_hands_everything_through() -> None:
    assert roomy(lambda *args, **options: (args, options), 1, 2, call_for=3) == ((1, 2), {"call_for": 3})


def test_fx_searches_new_arguments_only_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    theirs = _pytree.tree_iter

    def counting(tree: object, **options: Any) -> Any:
        seen.append(tree)
        return theirs(tree, **options)

    monkeypatch.setattr(_pytree, "tree_iter", counting)
    graph = fx.Graph()
    x = graph.placeholder("x")
    with unscanned.arguments_unscanned():
        inner = graph.call_function(torch.ops.aten.relu.default, (x,))
    assert seen == [] and inner.args == (x,)
    graph.call_function(torch.ops.aten.relu.default, (x,))
    assert bool(seen) == (torch.__version__ >= "2.13")  # an older torch has no such search


@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_the_faster_cut_is_torchs_own(budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """networkx answers with the cut closest to the sink, whichever maximum flow it found."""
    seen = capture(Residual(), images(), run=False)
    assert seen.joint is not None and seen.done is not None

    def saved() -> list[str]:
        assert seen.joint is not None and seen.done is not None
        with functorch_config.patch(activation_memory_budget=budget):
            return [node.name for node in split.torch_saved(seen.joint, len(seen.done.plan.joint.fwd_outputs))]

    faster = saved()
    monkeypatch.setattr(split, "_faster_cut", contextlib.nullcontext)
    assert saved() == faster != []
