"""What `convert` does beyond compiling: frozen models, copies, taking it back, and saying that nothing was compiled."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.errors import ApproxFxError

OPTIONS: dict[str, Any] = {"bits": 4, "min_bytes": 64, "compiler": "eager"}


class Net(nn.Module):
    """Two layers; a break in a loop, where Dynamo gives the frame up, if asked for."""

    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.layers, self.breaks = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32)]), breaks

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if self.breaks:
                torch._dynamo.graph_break()
        return x


def rows() -> Tensor:
    return torch.randn(64, 32, generator=torch.Generator().manual_seed(0))


def ratio(model: nn.Module) -> float:
    model(rows()).sum().backward()
    return approx_fx.report(model).ratio


def test_a_frozen_model_whose_input_trains() -> None:
    """Soft prompts, adversarial examples, forces."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Net().requires_grad_(False)
    gradients = []
    for compiled in (False, True):
        x = rows().requires_grad_()
        if compiled:
            approx_fx.convert(model, **OPTIONS)
        model(x).square().sum().backward()
        gradients.append(x.grad)
    assert approx_fx.report(model).ratio > 5
    assert float(torch.cosine_similarity(*map(Tensor.flatten, gradients), dim=0)) > 0.99
    explained = approx_fx.explain(model, rows().requires_grad_(), options={"min_bytes": 64})
    assert explained.saved_after == approx_fx.report(model).saved_after


def test_copies_are_converted() -> None:
    torch._dynamo.reset()
    model = approx_fx.convert(nn.Sequential(Net(), nn.Linear(32, 8)), **OPTIONS)
    expected = ratio(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    copies.append(copy.deepcopy(copies[0]))
    for other in copies:
        assert torch.equal(other(rows()), model(rows()))
        assert other[1].weight is not model[1].weight
        assert ratio(other) == expected > 5
        assert list(other.state_dict()) == list(model.state_dict())
    inside = copy.deepcopy(nn.Sequential(model, nn.Tanh()))
    inside(rows()).sum().backward()
    assert approx_fx.report(inside).ratio == expected


def test_restore_takes_a_conversion_back() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(approx_fx.convert(Net(), **OPTIONS))
    assert ratio(model) > 5
    assert approx_fx.restore(model) is model
    for net in (model, copy.deepcopy(model)):
        net(rows()).sum().backward()
        assert not approx_fx.report(net).graphs


def test_a_model_of_which_nothing_is_compiled_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with torch.no_grad():
        approx_fx.convert(Net(breaks=True), **OPTIONS)(rows())  # the same reason, counted already
    torch.compile(lambda x: x.nonzero() + 1, backend="eager")(rows())  # another's reason, counted behind this model's
    torch._dynamo.reset()
    model = approx_fx.convert(Net(breaks=True), **OPTIONS)
    with torch.no_grad():
        model(rows())
    assert not [record for record in caplog.records if record.name.startswith("approx_fx")]
    text = (
        "Net trains exactly: torch.compile could not compile any part of it, because of: Call to "
        "`torch._dynamo.graph_break()`"
    )
    with caplog.at_level(logging.WARNING, "approx_fx"):
        for _ in range(2):
            model(rows()).sum().backward()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("approx_fx")] == [
        f"approx_fx: {text}"
    ]
    assert str(approx_fx.report(model)).strip() == text
    torch._dynamo.reset()
    strict = approx_fx.convert(Net(breaks=True), **OPTIONS, strict=True)
    for _ in range(2):  # not the first step alone: the second must not train exactly in silence
        with pytest.raises(ApproxFxError, match="Net trains exactly"):
            strict(rows())
    with pytest.raises(ApproxFxError, match=r"a builtin_function_or_method was given where a torch\.nn\.Module is"):
        approx_fx.convert(torch.relu)  # type: ignore[type-var]


def test_compiling_warns_of_nothing_that_torch_compile_does_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ratio(approx_fx.convert(Net(), **OPTIONS))
    assert not [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]


class Clashing(nn.Module):
    """A forward with an argument that has an option's name, one of its own, and any others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, x: Tensor, *, group: Tensor, scale: float = 1.0) -> Tensor:
        return torch.tanh(self.layer(x) * group * scale)


def test_explain_takes_the_models_own_arguments() -> None:
    model, arguments = Clashing(), {"group": torch.ones(32), "scale": 2.0}
    report = approx_fx.explain(model, rows(), **arguments, options={"bits": 2, "min_bytes": 64})
    assert {row.bits for row in report.tensors} == {2}
    with pytest.raises(ApproxFxError, match=r"group= is an option and also an argument of Clashing\.forward"):
        approx_fx.explain(model, rows(), **arguments, bits=2)
    with pytest.raises(ApproxFxError, match=r"'scal' is neither .* of Clashing\.forward\. Did you mean 'scale'\?"):
        approx_fx.explain(model, rows(), scal=2.0, options={})
