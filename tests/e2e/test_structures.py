"""What people write: custom functions, graph breaks, in-place ops, shared and frozen weights, dicts, evaluation."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from tests.support.nets import ConvBnRelu, NoRelu, Residual, conv, images

OPTIONS: dict[str, Any] = {"compiler": "eager", "min_bytes": 256}


def cosine_to_exact(model: nn.Module, *inputs: Any, **options: Any) -> float:
    """Cosine of 4-bit gradients to eager autograd's, on the same weights; every graph must have been coded."""
    reference = copy.deepcopy(model)
    noise_loss(reference(*inputs)).backward()
    approx_fx.convert(model, **{**OPTIONS, **options})
    loss = noise_loss(model(*inputs))
    loss.backward()
    ours, exact = flat_gradients(model), flat_gradients(reference)
    return float(ours @ exact / (ours.norm() * exact.norm()))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * 3 * x * x


class WithCube(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 16), nn.BatchNorm2d(16), conv(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(Cube.apply(self.norm(self.a(x))))


def test_custom_autograd_function() -> None:
    model = WithCube()
    assert cosine_to_exact(model, images(), bits=8) > 0.99
    assert approx_fx.report(model).ratio > 3


class Broken(nn.Module):
    """A graph break in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = ConvBnRelu(), Residual()
        self.two.stem = conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        torch._dynamo.graph_break()
        return self.two(x)


def test_graph_break() -> None:
    model = Broken()
    assert cosine_to_exact(model, images()) > 0.97
    found = approx_fx.report(model)
    assert len(found.graphs) == 2
    assert all(graph.tensors for graph in found.graphs)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(3, 16), nn.BatchNorm2d(16), conv(16, 8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.norm(self.a(x))
        y.relu_()
        y = y.mul(2).add_(1)
        return self.b(y)


def test_in_place_ops_and_buffers() -> None:
    model = InPlace()
    assert cosine_to_exact(model, images()) > 0.98
    assert model.calls.item() == 1
    assert model.norm.num_batches_tracked.item() == 1


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.block = conv(3, 16), nn.BatchNorm2d(16), conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for _ in range(3):
            x = torch.relu(self.norm(self.block(x)))
        return self.block(x)


def test_shared_weights() -> None:
    assert cosine_to_exact(Shared(), images()) > 0.97


def test_frozen_layers_save_nothing_of_theirs() -> None:
    model = Residual()
    whole = approx_fx.explain(model, images(), min_bytes=256)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("last"))
    assert cosine_to_exact(model, images()) > 0.98
    head = approx_fx.report(model)
    assert head.saved_after < 0.5 * whole.saved_after
    assert model.stem.weight.grad is None


class Mapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = ConvBnRelu(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.body(x)
        return {"features": y, "logits": self.head(y.mean((2, 3))), "count": 3}


def test_a_dict_of_outputs() -> None:
    model = Mapping()
    assert cosine_to_exact(model, images()) > 0.99
    assert model(images())["count"] == 3


def test_several_forwards_before_one_backward() -> None:
    model = NoRelu()
    reference = copy.deepcopy(model)
    sum(noise_loss(reference(images() + shift)) for shift in (0.0, 0.5)).backward()  # type: ignore[union-attr]
    approx_fx.convert(model, **OPTIONS)
    sum(noise_loss(model(images() + shift)) for shift in (0.0, 0.5)).backward()  # type: ignore[union-attr]
    ours, exact = flat_gradients(model), flat_gradients(reference)
    assert ours @ exact / (ours.norm() * exact.norm()) > 0.99


def test_evaluation_and_no_grad_are_untouched() -> None:
    model = Residual()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, **OPTIONS)
    with torch.no_grad():
        assert torch.allclose(model(images()), exact(images()), atol=1e-5)
    assert approx_fx.report(model).graphs == ()
    model.eval()
    exact.eval()
    with torch.no_grad():
        assert torch.allclose(model(images()), exact(images()), atol=1e-5)


def test_a_batch_norm_in_evaluation_mode_trains() -> None:
    model = Residual()
    model.norm_a.eval()
    model.norm_b.eval()
    assert cosine_to_exact(model, images()) > 0.98


def test_convert_keeps_state_dict_and_returns_the_model() -> None:
    model = Residual()
    keys = list(model.state_dict())
    assert approx_fx.convert(model, **OPTIONS) is model
    model(images()).sum().backward()
    assert list(model.state_dict()) == keys
    copy.deepcopy(model).load_state_dict(model.state_dict())


def test_a_sequential_is_one_graph() -> None:
    model = nn.Sequential(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 8))
    approx_fx.convert(model, **OPTIONS)
    model(images()).sum().backward()
    assert len(approx_fx.report(model).graphs) == 1


def test_backend_by_name_without_import() -> None:
    model = Residual()
    compiled = torch.compile(model, backend="approx_fx", options={"bits": 2, **OPTIONS})
    compiled(images()).sum().backward()
    found = approx_fx.report(model)
    assert found.options["bits"] == 2
    assert found.ratio > 10


@pytest.mark.cpp
@pytest.mark.parametrize("dynamic", [True, None])
def test_other_batch_sizes(dynamic: bool | None) -> None:
    model, reference = Residual(), None
    approx_fx.convert(model, dynamic=dynamic, strict=True, **OPTIONS)
    for batch in (8, 6, 3, 1):
        reference = copy.deepcopy(model)
        model.zero_grad()
        reference.zero_grad()
        noise_loss(reference(images(batch))).backward()
        noise_loss(model(images(batch))).backward()
        ours, exact = flat_gradients(model), flat_gradients(reference)
        assert ours @ exact / (ours.norm() * exact.norm()) > 0.97


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft(self.a(x))
        return self.b((spectrum * spectrum.conj()).real)


def test_complex_values_are_kept_exact_and_listed() -> None:
    model = Complex()
    assert cosine_to_exact(model, torch.randn(32, 64)) > 0.99
    assert "complex" in {row.reason for row in approx_fx.report(model).kept}


def test_sparse_input_trains() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 64), nn.Linear(64, 8)

        def forward(self, adjacency: Tensor, x: Tensor) -> Tensor:
            return self.b(torch.relu(torch.sparse.mm(adjacency, self.a(x))))

    adjacency = (torch.rand(40, 40) > 0.8).float().to_sparse()
    assert cosine_to_exact(Sparse(), adjacency, torch.randn(40, 32)) > 0.98


def test_a_failing_pass_trains_exactly_or_raises(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import approx_fx.backend as backend

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug in the pass")

    monkeypatch.setattr(backend, "partition", broken)
    with caplog.at_level(logging.WARNING, "approx_fx"):
        assert cosine_to_exact(ConvBnRelu(), images()) > 0.9999
    assert sum("a bug in the pass" in record.getMessage() for record in caplog.records) == 1
    torch._dynamo.reset()
    strict = approx_fx.convert(ConvBnRelu(), strict=True, **OPTIONS)
    with pytest.raises(Exception, match="a bug in the pass"):
        strict(images())


def test_changing_a_weight_before_the_backward_is_refused() -> None:
    model = approx_fx.convert(ConvBnRelu(), **OPTIONS)
    loss = model(images()).sum()
    with torch.no_grad():
        model.second.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
