"""Each rule of the verifier fails on a graph that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import fx

from approx_fx.errors import PassFailed
from approx_fx.joint.op_table import name_of
from approx_fx.passes.state import Partition
from approx_fx.passes.verify import RULES, verify
from tests.support.capture import capture
from tests.support.nets import Residual, images

aten = torch.ops.aten


def rewritten() -> Partition:
    done = capture(Residual(), images(), run=False, min_bytes=256).done
    assert done is not None
    return done


def find(module: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in module.graph.nodes if name_of(node) == name)


def use_before_definition(done: Partition) -> Partition:
    node = find(done.backward, "convolution_backward")
    next(iter(done.backward.graph.nodes)).prepend(node)
    return done


def dequantize_in_the_forward(done: Partition) -> Partition:
    graph = done.forward.graph
    code = find(done.forward, "quantize_bitmask")
    with graph.inserting_after(code):
        graph.call_function(torch.ops.approx_fx.dequantize_bitmask.default, (code, 0, 8))
    return done


def mask_from_an_approximation(done: Partition) -> Partition:
    graph = done.backward.graph
    value = find(done.backward, "dequantize_channel")
    with graph.inserting_after(value):
        mask = graph.call_function(aten.le.Scalar, (value, 0))
    mask.meta["val"] = value.meta["val"] <= 0
    return done


def other_strides(done: Partition) -> Partition:
    copy, value = next((c, v) for c, v in done.copies.items() if c.meta["val"].ndim == 4)
    stand_in = fx.Graph().placeholder("x")
    stand_in.meta["val"] = copy.meta["val"].to(memory_format=torch.channels_last)
    return dataclasses.replace(done, copies={**done.copies, stand_in: value})


# rule -> what breaks it: a rule without a row fails
DEFECTS: dict[str, Callable[[Partition], Partition]] = {
    "topological": use_before_definition,
    "forward_is_exact": dequantize_in_the_forward,
    "masks_are_exact": mask_from_an_approximation,
    "copies_match_originals": other_strides,
}


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_each_rule_sees_its_defect(rule: str) -> None:
    done = rewritten()
    verify(done)
    with pytest.raises(PassFailed, match=rule):
        verify(DEFECTS[rule](done))
