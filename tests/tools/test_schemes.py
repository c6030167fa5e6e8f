"""The methods of the paper's experiments: grids, streams, Banner et al., ActNN's scheme, reversible nets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import approx_fx
from approx_fx.bench.live_bytes import measure
from approx_fx.ops import channel
from approx_fx.ops.channel import step_in_sigmas
from models.preact_resnet import preact_basic8_net
from tools.reproduce import equation9
from tools.reproduce.gradient_error import bias_and_variance
from tools.reproduce.schemes import banner
from tools.reproduce.schemes.actnn import convert_to_actnn
from tools.reproduce.schemes.approximate_streams import Streams, read_back, stream
from tools.reproduce.schemes.reversible import ReversibleStage, revnet20_net


@pytest.mark.parametrize("bits", equation9.BITS)
@pytest.mark.parametrize("grid", equation9.GRIDS)
def test_equation_9_keeps_the_mask_and_stays_within_half_a_step(bits: int, grid: str) -> None:
    step = step_in_sigmas(bits, grid)
    z = torch.linspace(-1.4 * step, 1.4 * step, 101)
    value, mask = equation9.read_back(z, bits, grid, offset=0.0)
    assert torch.equal(mask, z > 0)
    near = z.abs() < 2 ** (bits - 1) * step
    assert bool(((value - z).abs()[near] <= step / 2 + 1e-5).all())


def test_our_grid_is_no_worse_at_any_number_of_bits() -> None:
    ours, theirs = equation9.errors("gaussian"), equation9.errors("blpa")
    assert all(ours[bits] <= theirs[bits] for bits in equation9.BITS)


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    """(x [16, 3, 16, 16], labels [16])."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 3, 16, 16, generator=generator), torch.randint(10, (16,), generator=generator)


def preact() -> nn.Module:
    torch.manual_seed(0)
    return preact_basic8_net()


def step(model: nn.Module, seed: int = 0) -> tuple[float, Tensor]:
    """(loss, all gradients as one vector) of one step in training mode."""
    x, y = images(seed)
    model.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_exact_streams_are_plain_training() -> None:
    loss, exact = step(preact())
    found, gradient = step(stream(preact(), Streams(4, forward=False, backward=False)))
    assert found == pytest.approx(loss, rel=1e-5)
    assert relative(gradient, exact) < 1e-4


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_backward_stream_is_what_approx_fx_does(bits: int) -> None:
    """Its error against approx_fx's own gradient is small beside the error that both make."""
    loss, exact = step(preact())
    found, emulated = step(stream(preact(), Streams(bits, forward=False, backward=True)))
    _, ours = step(approx_fx.convert(preact(), bits=bits, compiler="eager", strict=True, stream=0))
    assert found == pytest.approx(loss, rel=1e-5)
    assert relative(emulated, ours) < 0.5 * relative(ours, exact)


@pytest.mark.parametrize("bits", [8, 3, 1])
def test_what_the_streams_read_is_what_the_ops_give_back(bits: int) -> None:
    torch.manual_seed(0)
    norm, h = nn.BatchNorm2d(6), 2 * torch.randn(4, 6, 5, 5) + 1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    var, mean = torch.var_mean(h, (0, 2, 3), correction=0)
    rstd, shape = torch.rsqrt(var + norm.eps), (1, -1, 1, 1)
    mask = (h - mean.view(shape)) * (rstd * norm.weight).view(shape) + norm.bias.view(shape) > 0
    grid = channel.channel_grid.overload(mean, rstd, norm.weight, norm.bias, 0.0, bits, "gaussian")
    codes = channel.quantize_channel.overload(h, grid, mask, bits, 1, 3)
    theirs = channel.dequantize_channel.overload(codes, grid, bits, 1, 3, 5, torch.float32)
    ours = read_back(h, mean, rstd, norm, mask, Streams(bits, forward=True, backward=True))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_forward_stream_changes_the_loss_and_the_tested_net() -> None:
    loss, _ = step(preact())
    naive = stream(preact(), Streams(2, forward=True, backward=True))
    found, _ = step(naive)
    assert abs(found - loss) > 1e-3 * loss
    x, _ = images()
    plain = preact()
    plain.load_state_dict(
        {name.replace("norm.", "0.").replace("conv.", ""): value for name, value in naive.state_dict().items()}
    )
    assert not torch.allclose(naive.eval()(x), plain.eval()(x), rtol=1e-3)


def test_running_statistics_of_streams_are_batch_norms() -> None:
    plain, streamed = preact(), stream(preact(), Streams(4, forward=False, backward=True))
    step(plain)
    step(streamed)
    theirs = [value for name, value in plain.state_dict().items() if "running" in name]
    ours = [value for name, value in streamed.state_dict().items() if "running" in name]
    for value, own in zip(theirs, ours, strict=True):
        torch.testing.assert_close(own, value, rtol=1e-4, atol=1e-5)


def test_streams_refuse_other_nets() -> None:
    with pytest.raises(TypeError, match="only a PreActResNet has its streams apart, not a Linear"):
        stream(nn.Linear(2, 2), Streams(4, forward=True, backward=True))


def test_range_norm_is_its_equation_and_its_derivative() -> None:
    """Against the equation written out for autograd, at the values that its 8 bits leave."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    x = torch.randn(8, 5, 6, 6)
    x = banner.dequantize(*banner.quantize(x)).requires_grad_()
    out = banner.RangeNorm(copy.deepcopy(norm)).train()(x)
    rows = x.transpose(0, 1).flatten(1)
    scale = (rows.amax(1) - rows.amin(1)) / (2 * torch.log(torch.tensor(float(rows.shape[1])))).sqrt() + norm.eps
    shape = (1, -1, 1, 1)
    written = (x - rows.mean(1).view(shape)) / scale.view(shape) * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(out, written, rtol=1e-4, atol=1e-4)
    seed = torch.randn_like(out)
    (ours,) = torch.autograd.grad(out, x, seed)
    (theirs,) = torch.autograd.grad(written, x, seed)
    # Equal extremes, which 8 bits make, share amax's gradient; max gives it to one of them: their sum is the same.
    alone = torch.ones_like(rows, dtype=torch.bool)
    ours, theirs = (gradient.transpose(0, 1).flatten(1) for gradient in (ours, theirs))
    for extreme in (rows.amax(1), rows.amin(1)):
        there = rows == extreme[:, None]
        alone &= ~there
        torch.testing.assert_close((ours * there).sum(1), (theirs * there).sum(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours[alone], theirs[alone], rtol=1e-3, atol=1e-4)


def test_the_bifurcated_gradient_is_coarse_for_the_input_alone() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    x = banner.dequantize(*banner.quantize(torch.randn(4, 4, 8, 8))).requires_grad_()
    plain = copy.deepcopy(conv)
    plain.weight.data = banner.dequantize(*banner.quantize(conv.weight.data))
    g = torch.randn(4, 6, 8, 8)
    banner.QuantizedConv(conv)(x).backward(g)
    again = x.detach().clone().requires_grad_()
    plain(again).backward(g)
    assert x.grad is not None and again.grad is not None
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    assert 1e-4 < relative(x.grad, again.grad) < 0.02


def test_banners_net_keeps_bytes_and_bits() -> None:
    """Per element of a chain: a byte for batch norm, one for the convolution, a bit for the ReLU; eager has 8 bytes."""
    x, y = images()
    assert saved(preact(), x, y) / saved(banner.convert_to_8_bits(preact()), x, y) > 3


def saved(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Bytes held between forward and backward."""
    loss: list[Tensor] = []
    return measure(lambda: loss.append(cross_entropy(model(x), y))).held


def test_8_bits_hold_zero_and_round_within_half_a_step() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    x[::3] = 0
    codes, scale = banner.quantize(x)
    back = banner.dequantize(codes, scale)
    assert bool((back[x == 0] == 0).all())
    assert float((back - x).abs().max()) <= float(scale[1]) / 2 + 1e-6


@pytest.mark.cpp
def test_actnn_saves_little_and_is_right_on_average() -> None:
    _, exact = step(preact())
    x, y = images()
    plain, ours = preact(), convert_to_actnn(preact())
    assert saved(plain, x, y) / saved(ours, x, y) > 6
    errors = torch.stack([step(ours)[1] - exact for _ in range(24)])
    bias, variance = bias_and_variance(errors)
    assert float(variance) > 0
    assert float(bias) < 0.15 * float(variance)


def test_a_reversible_stage_has_autograds_gradient_and_updates_its_statistics_once() -> None:
    torch.manual_seed(0)
    stage = ReversibleStage(3, 16)
    twin = copy.deepcopy(stage)
    x = torch.randn(4, 16, 8, 8, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    stage(x).square().sum().backward()
    twin.run(again).square().sum().backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-3, atol=1e-3)
    for (name, parameter), own in zip(stage.named_parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None and own.grad is not None, name
        assert relative(parameter.grad, own.grad) < 1e-3, name
    for (name, buffer), own in zip(stage.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, own, msg=name)


def test_a_reversible_net_keeps_less() -> None:
    x, y = images()

    class Forward(ReversibleStage):
        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    net = revnet20_net()
    twin = copy.deepcopy(net)
    for part in twin:
        if isinstance(part, ReversibleStage):
            part.__class__ = Forward
    assert saved(net, x, y) < 0.7 * saved(twin, x, y)
