"""The paper's experiments: their small parts, and one of them from end to end."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

import approx_fx
from approx_fx.memory import measure
from approx_fx.ops import channel
from approx_fx.ops.channel import step_in_sigmas
from models.preact_resnet import preact_basic8_net
from tools.errors import UserError
from tools.reproduce import equation9
from tools.reproduce.__main__ import TABLE, app
from tools.reproduce.comparison import error_table, main_data, main_settings, pool_of
from tools.reproduce.gradient_error import bias_and_variance
from tools.reproduce.memory import far_row
from tools.reproduce.methods import model_of
from tools.reproduce.numbers import paired, with_deviation, with_error
from tools.reproduce.schemes import banner
from tools.reproduce.schemes.actnn import convert_to_actnn
from tools.reproduce.schemes.reversible import ReversibleStage, revnet20_net
from tools.reproduce.schemes.streams import Streams, read_back, stream
from tools.reproduce.sizes import QUICK
from tools.settings import Epoch
from tools.tables import fill


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


def test_bias_and_variance_are_those_of_the_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = 0.5 + 2.0 * torch.randn(200, 50, generator=generator)
    bias, variance = bias_and_variance(errors)
    assert float(bias) == pytest.approx(50 * 0.25, rel=0.15)
    assert float(variance) == pytest.approx(50 * 4.0, rel=0.05)


def test_what_seeds_share_falls_out_of_a_difference() -> None:
    found = paired({0: 10.5, 1: 20.5, 2: 30.5, 7: 99.0}, {2: 30.0, 1: 20.0, 0: 10.0})
    assert found is not None and (found.mean, found.error) == (0.5, 0.0)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_run_has_no_spread_and_a_diverged_one_says_so() -> None:
    assert with_deviation([1.25]) == "1.25"
    assert with_deviation([1.0, 2.0]) == "1.50 ± 0.71"
    assert with_deviation([1.0, float("nan")]) == "diverged"
    assert with_error(paired({0: 1.5, 1: 2.0}, {0: 1.0, 1: 1.0})) == "+0.75 ± 0.25"
    assert with_error(paired({0: 1.5}, {0: 1.0})) == "+0.50, one seed"


def test_runs_are_made_once_and_other_settings_are_refused(tmp_path: Path) -> None:
    pool, dataset = pool_of(tmp_path), main_data(QUICK)
    settings = main_settings(QUICK)
    pool.train("main", ("exact", "naive-4"), (0,), dataset, settings)
    (before,) = pool.read("main", "naive-4", (0,))
    pool.train("main", ("naive-4",), (0,), dataset, settings)
    assert pool.read("main", "naive-4", (0, 1)) == [before]
    assert len(before["history"]) == QUICK.epochs and before["settings"]["method"] == "naive-4"
    text = error_table({"exact": pool.read("main", "exact", (0,)), "naive-4": [before]})
    assert text.splitlines()[0].startswith("| method | test error % |") and len(text.splitlines()) == 4
    with pytest.raises(UserError, match=r"naive-4-seed0.json holds a run with epochs=1 \(now 2\). Delete it, or give"):
        pool.train("main", ("naive-4",), (0,), dataset, replace(settings, epochs=2))


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch's checkpoint is read, not trained again: the result is that of an unbroken run."""
    dataset, settings = main_data(QUICK), replace(main_settings(QUICK), epochs=2)
    whole = pool_of(tmp_path / "whole")
    whole.train("main", ("ours-4",), (0,), dataset, settings)
    parts = pool_of(tmp_path / "parts")

    class Stop(Exception):
        pass

    seen: list[int] = []

    def stop(*arguments: object) -> None:
        raise Stop

    def note(*arguments: object) -> None:
        epoch = arguments[-1]
        assert isinstance(epoch, Epoch)
        seen.append(epoch.epoch)

    monkeypatch.setattr("tools.reproduce.pool.report_epoch", stop)
    with pytest.raises(Stop):
        parts.train("main", ("ours-4",), (0,), dataset, settings)
    assert not parts.read("main", "ours-4", (0,))
    monkeypatch.setattr("tools.reproduce.pool.report_epoch", note)
    parts.train("main", ("ours-4",), (0,), dataset, settings)
    assert seen == [2]
    one, two = (pool.read("main", "ours-4", (0,))[0]["history"] for pool in (whole, parts))
    assert [epoch["train_loss"] for epoch in one] == [epoch["train_loss"] for epoch in two]


def test_tables_have_their_places() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end -->\nb"
    assert fill(text, {"x": "new"}, "README.md") == "a\n<!-- table: x -->\nnew\n<!-- end -->\nb"
    with pytest.raises(UserError, match=r"README\.md has no line <!-- table: y --> with <!-- end --> behind it\."):
        fill(text, {"y": "new"}, "README.md")


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    runner = CliRunner()
    wrong = runner.invoke(app, ["acuracy", "--out", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "There is no experiment 'acuracy'; known are all, equation9, accuracy" in wrong.output.replace("\n", " ")
    assert "Did you mean 'accuracy'?" in wrong.output.replace("\n", " ")
    both = runner.invoke(app, ["accuracy", "--quick", "--full"])
    assert both.exit_code == 2 and "Give --quick or --full, not both" in both.output


def test_every_experiment_says_where_it_is_not_measured_yet(tmp_path: Path) -> None:
    for experiment in TABLE:
        assert "Not measured yet" in experiment.page(QUICK, tmp_path) or "python -m" in experiment.page(QUICK, tmp_path)


def test_the_whole_quick_form(tmp_path: Path) -> None:
    """Three experiments in CI's size: their files, their pictures, their tables."""
    for name in ("directions", "architectures", "gradient-error"):
        done = CliRunner().invoke(app, [name, "--quick", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.glob("*.png")} == {"directions.png", "gradient_error.png"}
    run = json.loads((tmp_path / "main" / "forward-2-seed0.json").read_text())
    assert run["settings"]["seed"] == 0 and run["environment"]["torch"] == torch.__version__
    errors = json.loads((tmp_path / "gradient_error.json").read_text())["depths"]["8"]["errors"]["0"]
    sizes = [errors[bits]["all"] for bits in ("1", "2", "4", "8")]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.05


def test_what_depth_1001_saves_lies_on_the_line_of_the_two_deepest() -> None:
    found = {str(depth): {"exact": {"saved_bytes": 10 * depth + 3}, "seconds": 1.0} for depth in (20, 110, 164)}
    assert far_row(found) == {"exact": pytest.approx(10013)}
    assert far_row({**found, "1001": found["164"]}) == {}


def test_a_reversible_net_stands_for_known_ones_alone() -> None:
    assert model_of("revnet", "preact_basic8") == "revnet20" and model_of("ours-4", "resnet20") == "resnet20"
    with pytest.raises(UserError, match="There is no revnet for the model 'resnet20'; known are preact_resnet164"):
        model_of("revnet", "resnet20")
