"""Short forms of costly functions: their error, and where they are taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from approx_fx.ops import smooth
from approx_fx.passes.pipeline import lower
from tests.support.capture import capture

FORMS = {"tanh": (smooth.short_tanh, 2**-22)}


@pytest.mark.parametrize("name", FORMS)
@given(value=st.floats(-20, 20, width=32))
def test_errors(name: str, value: float) -> None:
    form, error = FORMS[name]
    x = torch.tensor([value, -value])
    exact = getattr(torch, name)(x.double())
    assert (form.reference(x).double() - exact).abs().max() <= error


@pytest.mark.parametrize("name", FORMS)
def test_what_is_not_finite(name: str) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
    assert torch.equal(FORMS[name][0].reference(x)[1:], torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert FORMS[name][0].reference(x)[0].isnan()


class Decided(nn.Module):
    """A GELU, and behind it a mask that a tanh of the exact weight decides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.first(x), approximate="tanh") * torch.tanh(self.second.weight[0])
        result: Tensor = self.second(hidden)
        return result


def _targets(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if "tanh" in str(node.target)]


def test_only_what_is_decoded_is_shortened() -> None:
    done = capture(Decided(), torch.randn(32, 64), run=False).done
    assert done is not None
    forward, backward = lower(done)
    assert _targets(forward.graph) == ["aten.tanh.default", "aten.tanh.default"]
    assert sorted(_targets(backward.graph)) == ["approx_fx.short_tanh.default", "aten.tanh.default"]


def test_kernels_of_their_own_are_left_alone() -> None:
    done = capture(Decided(), torch.randn(32, 64), run=False).done
    assert done is not None
    _, backward = lower(done, "kernel")
    assert set(_targets(backward.graph)) == {"aten.tanh.default"}
