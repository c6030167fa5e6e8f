"""How people train: accumulation, several optimizers, hooks, adapters, recurrent nets, custom ops, double backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from models.gpt import gpt_tiny
from models.lstm import char_lstm
from tests.support.nets import GeluBlock, Residual, conv, images, rows

OPTIONS: dict[str, Any] = {"compiler": "eager", "min_bytes": 256, "strict": True}


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def against_exact(model: nn.Module, *inputs: Any, **options: Any) -> tuple[float, nn.Module]:
    """(cosine to PyTorch's own gradient, the converted model after one step)."""
    torch._dynamo.reset()
    exact, ours = copy.deepcopy(model), copy.deepcopy(model)
    approx_fx.convert(ours, **{**OPTIONS, **options})
    for net in (exact, ours):
        torch.manual_seed(3)
        noise_loss(net(*inputs)).backward()
    return cosine(flat_gradients(ours), flat_gradients(exact)), ours


def test_gradient_accumulation_is_the_sum() -> None:
    model = approx_fx.convert(GeluBlock(), **OPTIONS)
    parts = []
    for seed in range(3):
        model.zero_grad()
        noise_loss(model(rows() + seed)).backward()
        parts.append(flat_gradients(model))
    model.zero_grad()
    for seed in range(3):
        noise_loss(model(rows() + seed)).backward()
    torch.testing.assert_close(flat_gradients(model), sum(parts), rtol=1e-4, atol=1e-4)


def test_retain_graph_gives_the_same_gradient_twice() -> None:
    model = approx_fx.convert(GeluBlock(), **OPTIONS)
    loss = noise_loss(model(rows()))
    loss.backward(retain_graph=True)
    once = flat_gradients(model)
    loss.backward()
    torch.testing.assert_close(flat_gradients(model), 2 * once, rtol=1e-5, atol=1e-5)


def test_backward_twice_and_double_backward_are_refused() -> None:
    model = approx_fx.convert(GeluBlock(), **OPTIONS)
    loss = noise_loss(model(rows()))
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    x = rows().requires_grad_()
    (gradient,) = torch.autograd.grad(noise_loss(model(x)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient.sum().backward()


def test_hooks_see_what_they_see_in_eager() -> None:
    model = GeluBlock()
    seen: list[dict[str, Tensor]] = []
    for options in (None, {**OPTIONS, "strict": False}):
        net, values = copy.deepcopy(model), {}
        net.a.register_forward_hook(lambda module, args, output, values=values: values.update(forward=output.detach()))
        net.b.weight.register_hook(lambda gradient, values=values: values.update(gradient=gradient.clone()))
        noise_loss((approx_fx.convert(net, **options) if options else net)(rows())).backward()
        seen.append(values)
    eager, ours = seen
    torch.testing.assert_close(ours["forward"], eager["forward"])
    assert cosine(ours["gradient"].flatten(), eager["gradient"].flatten()) > 0.98


def test_two_optimizers() -> None:
    torch._dynamo.reset()
    model = approx_fx.convert(Residual(), **OPTIONS)
    parameters = list(model.parameters())
    optimizers = [torch.optim.SGD(parameters[:4], lr=0.1), torch.optim.Adam(parameters[4:], lr=1e-3)]
    before = copy.deepcopy(model.state_dict())
    noise_loss(model(images())).backward()
    for optimizer in optimizers:
        optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


class LoRA(nn.Module):
    """A frozen layer and a trained correction of rank 4 (Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))


def test_adapters_on_a_frozen_net() -> None:
    """The frozen weights get no gradient; what is saved is what the adapters and the activations need."""
    model = nn.Sequential(nn.LayerNorm(64), LoRA(64, 256), nn.GELU(), LoRA(256, 64))
    found, ours = against_exact(model, rows(), bits=8)
    assert found > 0.999
    assert all(p.grad is None for name, p in ours.named_parameters() if "frozen" in name)
    shapes = [row.shape for row in approx_fx.report(ours).tensors]
    assert shapes.count((64, 256)) == 1, "one code serves GELU and the second adapter"


def test_a_frozen_layer_in_front_saves_nothing() -> None:
    model = nn.Sequential(nn.Linear(64, 256).requires_grad_(False), nn.GELU(), nn.Linear(256, 16))
    report = approx_fx.explain(model, rows(), min_bytes=256, strict=True)
    assert report.saved_after < 64 * 256
    assert len(report.tensors) <= 1


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.token, self.cells, self.head = nn.Embedding(32, 64), kind(64, 64, 2, batch_first=True), nn.Linear(64, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cells(self.token(tokens))[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_train(kind: type[nn.RNNBase]) -> None:
    """Whether dynamo traces them or leaves them to eager: the gradient is right, and a report says what was coded."""
    tokens = torch.randint(32, (16, 12), generator=torch.Generator().manual_seed(0))
    found, ours = against_exact(Recurrent(kind), tokens, bits=8, strict=False)
    assert found > 0.999
    assert approx_fx.report(ours).ratio >= 1


@pytest.mark.cpp
def test_unrolled_cells_are_coded() -> None:
    model, inputs, _ = char_lstm(batch=8, length=6)
    found, ours = against_exact(model, *inputs, bits=8)
    assert found > 0.9995
    assert approx_fx.report(ours).ratio > 5


@torch.library.custom_op("approx_fx_tests::bend", mutates_args=())
def bend(x: Tensor) -> Tensor:
    return x * x.abs()


@bend.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("approx_fx_tests::bend_backward", mutates_args=())
def bend_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return 2 * gradient * x.abs()


@bend_backward.register_fake
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


bend.register_autograd(lambda ctx, gradient: bend_backward(gradient, *ctx.saved_tensors), setup_context=_save)


class Bent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 128), nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(bend(self.a(x)))


def test_what_a_custom_op_reads_is_exact() -> None:
    model = Bent()
    _, ours = against_exact(model, rows(), bits=2)
    exact = copy.deepcopy(model)
    noise_loss(exact(rows())).backward()
    kept = {(row.op, row.reason) for row in approx_fx.report(ours).kept}
    assert ("addmm", "reader") in kept
    torch.testing.assert_close(ours.a.weight.grad, exact.a.weight.grad)
    assert not torch.equal(ours.b.weight.grad, exact.b.weight.grad)


@pytest.mark.cpp
@pytest.mark.parametrize("dynamic", [True, None])
def test_other_lengths_and_batches_of_text(dynamic: bool | None) -> None:
    """One graph for all sizes: recompiled at most once for a size that changes, never per size."""
    torch._dynamo.reset()
    model, _, _ = gpt_tiny()
    exact = copy.deepcopy(model)
    approx_fx.convert(model, dynamic=dynamic, **OPTIONS)
    for batch, length in ((4, 33), (3, 65), (2, 31), (5, 64)):
        tokens = torch.randint(256, (batch, length))
        for net in (exact, model):
            net.zero_grad()
            noise_loss(net(tokens)).backward()
        assert cosine(flat_gradients(model), flat_gradients(exact)) > 0.98, (batch, length)
    assert len(approx_fx.report(model).graphs) <= (1 if dynamic else 2)


def test_marked_dynamic() -> None:
    torch._dynamo.reset()
    model = approx_fx.convert(GeluBlock(), **OPTIONS)
    for batch in (64, 17, 33):
        x = torch.randn(batch, 64)
        torch._dynamo.mark_dynamic(x, 0)
        noise_loss(model(x)).backward()
    assert len(approx_fx.report(model).graphs) == 1


@pytest.mark.cpp
@pytest.mark.parametrize("batch", [1, 7])
def test_odd_batches(batch: int) -> None:
    for model, inputs in ((Residual(), images(batch, 15)), (GeluBlock(), torch.randn(batch, 64))):
        found, _ = against_exact(model, inputs, bits=8)
        assert found > 0.995


class Sums(nn.Module):
    """torch's scan: a running state, one step after the other, inside the graph.

    Inductor itself cannot train this in torch 2.13 (with any backend that uses its decompositions, a step that returns
    what it saves is taken for an alias); op by op it trains.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        from torch._higher_order_ops.scan import scan

        def step(state: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
            state = torch.tanh(0.5 * state + part)
            return state.sin(), state.cos()

        y = self.a(x)
        _, states = scan(step, y.new_zeros(64), y)
        return self.b(states)


@pytest.mark.cpp
def test_scan_trains() -> None:
    found, ours = against_exact(Sums(), torch.randn(24, 64), bits=8, strict=False)
    assert found > 0.99
    assert approx_fx.report(ours).ratio >= 1


@pytest.mark.cpp
def test_resumed_in_mid_epoch_equals_uninterrupted(tmp_path: Any) -> None:
    """Weights after six steps, bit for bit, with stochastic rounding, momentum and a schedule."""

    def make() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = approx_fx.convert(GeluBlock(), rounding="stochastic", **OPTIONS)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            x = torch.randn(64, 64, generator=torch.Generator().manual_seed(number))
            model(x).square().mean().backward()
            optimizer.step()
            schedule.step()

    whole = make()
    steps(*whole, range(6))
    first = make()
    steps(*first, range(3))
    state = [part.state_dict() for part in first]
    torch.save({"parts": state, "rounding": approx_fx.rounding_state(first[0])}, tmp_path / "mid.pt")
    second = make()
    loaded = torch.load(tmp_path / "mid.pt")
    for part, saved in zip(second, loaded["parts"], strict=True):
        part.load_state_dict(saved)
    approx_fx.load_rounding_state(second[0], loaded["rounding"])
    steps(*second, range(3, 6))
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name


@pytest.mark.cpp
def test_convolution_families() -> None:
    """1d, 3d, transposed, depthwise and dilated convolutions; interpolation, padding, average and adaptive pools."""
    nets: list[tuple[nn.Module, Tensor]] = [
        (nn.Sequential(nn.Conv1d(4, 16, 3), nn.BatchNorm1d(16), nn.GELU(), nn.Conv1d(16, 8, 3)), torch.randn(8, 4, 64)),
        (
            nn.Sequential(nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 4, 1)),
            torch.randn(2, 2, 12, 12, 12),
        ),
        (nn.Sequential(conv(3, 16), nn.SiLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.ELU(), conv(8, 4)), images()),
        (nn.Sequential(conv(3, 16), nn.Conv2d(16, 16, 3, dilation=2, groups=16), nn.Mish(), conv(16, 4)), images()),
        (nn.Sequential(conv(3, 16), nn.Upsample(scale_factor=2), nn.Softplus(), conv(16, 4)), images()),
        (nn.Sequential(conv(3, 16), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Tanh(), conv(16, 4)), images()),
        (nn.Sequential(conv(3, 16), nn.ReflectionPad2d(2), nn.LeakyReLU(), nn.AvgPool2d(2), conv(16, 4)), images()),
        (nn.Sequential(conv(3, 16), nn.Hardtanh(), nn.AdaptiveAvgPool2d(5), nn.Hardsigmoid(), conv(16, 4)), images()),
        (nn.Sequential(conv(3, 16), nn.AdaptiveMaxPool2d(5), nn.PReLU(), conv(16, 4)), images()),
    ]
    for model, x in nets:
        found, ours = against_exact(model, x, bits=8)
        assert found > 0.998, model
        assert approx_fx.report(ours).ratio >= 1, model
