"""Options by module and stochastic rounding: what is coded how, on average right, the same again."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.errors import ApproxFxError
from approx_fx.joint.module_patterns import last_match, matches
from approx_fx.ops.stochastic import quantize_stochastic, uniform
from approx_fx.peak.dry_run import generated_code
from tests.support.nets import rows

OPTIONS = {"compiler": "eager", "min_bytes": 256, "strict": True}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        attention, mlp = nn.Sequential(nn.Linear(64, 64), nn.Tanh()), nn.Sequential(nn.Linear(64, 64), nn.GELU())
        self.body = nn.ModuleDict({"attn": attention, "mlp": mlp})
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body["mlp"](self.body["attn"](x))))


def gradients(model: nn.Module, *inputs: Tensor, steps: int = 1, **options: Any) -> list[dict[str, Tensor]]:
    """Each step's gradients of a converted copy, by parameter; the weights do not move."""
    torch._dynamo.reset()
    model = approx_fx.convert(copy.deepcopy(model), **{**OPTIONS, **options})
    found = []
    for _ in range(steps):
        model.zero_grad()
        model(*inputs).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    return found


@pytest.mark.parametrize(
    ("pattern", "path", "named"),
    [
        ("head", "head", True),
        ("head", "head.0.norm", True),
        ("head", "body.head", False),
        ("*.norm", "blocks.3.norm", True),
        ("*.norm", "blocks.3.norm1", False),
        ("*.attn*", "blocks.0.attn.qkv", True),
        ("*", "", True),
    ],
)
def test_patterns(pattern: str, path: str, named: bool) -> None:
    assert matches(pattern, path) is named


def test_the_last_pattern_wins() -> None:
    assert last_match({"*": 4, "*.attn*": 8}, "a.attn.q", 2) == 8
    assert last_match({"*.attn*": 8, "*": 4}, "a.attn.q", 2) == 4
    assert last_match({"b": 8}, "a", 2) == 2


def test_bits_by_module() -> None:
    found = approx_fx.explain(Net(), rows(), bits={"*": 4, "*attn": 8, "norm": None}, min_bytes=256, strict=True)
    bits = {row.module.split(".")[1]: row.bits for row in found.tensors}
    assert bits == {"attn": 8, "mlp": 4}
    assert {row.module for row in found.kept if row.reason == "user"} == {"norm"}
    everything = approx_fx.explain(Net(), rows(), bits=4, min_bytes=256)
    assert everything.saved_after < found.saved_after


def test_exact_modules_have_exact_gradients() -> None:
    model, x = Net(), rows()
    (exact,) = gradients(model, x, bits=None, strict=False)
    (coded,) = gradients(model, x, bits=2)
    (kept,) = gradients(model, x, bits=2, exact=["head"])
    assert not torch.equal(coded["head.weight"], exact["head.weight"])
    assert torch.equal(kept["head.weight"], exact["head.weight"])
    assert not torch.equal(kept["body.attn.0.weight"], exact["body.attn.0.weight"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exact": ["haed"]}, r"the pattern 'haed' names no module\. Did you mean 'head'"),
        ({"bits": {"boby.*": 4}}, r"the pattern 'boby\.\*' names no module\. Did you mean 'body"),
        ({"exact": "head"}, r"exact='head'.*given as a list"),
        ({"bits": {"*": 9}}, r"bits=\{'\*': 9\} is not allowed: bits is a whole number from 1 to 8"),
        ({"rounding": "stochastik"}, r"rounding='stochastik' is not allowed.*Did you mean 'stochastic'"),
        ({"seed": 1.5}, r"seed=1\.5 is not allowed: seed is a whole number"),
    ],
)
def test_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ApproxFxError, match=text):
        approx_fx.convert(Net(), **options)


def test_stochastic_gradients_are_right_on_average() -> None:
    """A linear net: 200 gradients' mean lies within 3 standard errors of the exact one.

    Per element that is a z-score; over all of them the mean of z squared is 1 with a deviation of sqrt(2 / n), n at
    least the elements of one weight's column, which share their codes.
    """
    torch.manual_seed(0)
    model, x, count = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32)), rows(), 200

    def step(bits: int | None, steps: int) -> Tensor:
        torch._dynamo.reset()
        net = approx_fx.convert(copy.deepcopy(model), bits=bits, rounding="stochastic", compiler="eager", min_bytes=256)
        noise = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
        found = []
        for _ in range(steps):
            net.zero_grad()
            (net(x) * noise).sum().backward()
            found.append(flat_gradients(net))
        return torch.stack(found)

    exact = step(None, 1)[0]
    found = step(4, count)
    deviation = found.std(0) / count**0.5
    moved = deviation > 1e-9
    assert moved.sum() > 5000
    z = ((found.mean(0) - exact) / deviation)[moved]
    assert z.square().mean() < 1 + 3 * (2 / 64) ** 0.5
    assert (found.mean(0) - exact).norm() < 3 * deviation.norm()
    assert torch.equal(found[0][~moved], exact[~moved]) or (found[0] - exact)[~moved].abs().max() < 1e-4


def test_stochastic_is_reproducible_and_differs_by_step_and_seed() -> None:
    model, x = Net(), rows()
    state = torch.get_rng_state()
    first, second = gradients(model, x, steps=2, rounding="stochastic")
    again = gradients(model, x, steps=2, rounding="stochastic")
    other = gradients(model, x, rounding="stochastic", seed=1)
    name = "head.weight"
    assert torch.equal(first[name], again[0][name]) and torch.equal(second[name], again[1][name])
    assert not torch.equal(first[name], second[name]) and not torch.equal(first[name], other[0][name])
    assert torch.equal(state, torch.get_rng_state())


def test_stochastic_resumes() -> None:
    model, x = Net(), rows()
    whole = gradients(model, x, steps=3, rounding="stochastic")
    torch._dynamo.reset()
    resumed = approx_fx.convert(copy.deepcopy(model), rounding="stochastic", **OPTIONS)
    approx_fx.load_rounding_state(resumed, {"step": 2})
    resumed(x).square().sum().backward()
    assert torch.equal(resumed.head.weight.grad, whole[2]["head.weight"])
    assert approx_fx.rounding_state(resumed) == {"step": 3}
    with pytest.raises(ApproxFxError, match="no rounding state"):
        approx_fx.load_rounding_state(resumed, {"steps": 2})


@pytest.mark.cpp
def test_stochastic_is_the_same_compiled() -> None:
    """Both compilers draw the same codes: what is left is the rounding of float32 sums."""
    model, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32)), rows()
    (eager,) = gradients(model, x, rounding="stochastic")
    (compiled,) = gradients(model, x, rounding="stochastic", compiler="inductor")
    for name, gradient in eager.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_stochastic_codes_are_the_same_compiled(bits: int) -> None:
    x, key = torch.randn(64, 96), torch.tensor(12345)

    def encode(x: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return quantize_stochastic.reference(x, None, key, bits, 1, 96, [], 0)

    torch._dynamo.reset()
    for ours, theirs in zip(encode(x, key), torch.compile(encode)(x, key), strict=True):
        assert torch.equal(ours, theirs)


def test_the_noise_is_uniform() -> None:
    """Mean, variance and neighbours' correlation of 2^16 numbers within 4 standard errors."""
    count = 2**16
    for key in (0, 1, 2**31 - 1):
        u = uniform(torch.empty(256, 256), torch.tensor(key)).flatten().double()
        assert u.min() >= 0 and u.max() < 1
        assert abs(u.mean() - 0.5) < 4 * (1 / 12 / count) ** 0.5
        assert abs(u.var() - 1 / 12) < 4 * (1 / 180 / count) ** 0.5
        for lag in (1, 2, 256):
            assert abs(torch.corrcoef(torch.stack([u[:-lag], u[lag:]]))[0, 1]) < 4 / count**0.5


@pytest.mark.cpp
def test_lowering_to_kernels_runs_the_very_ops() -> None:
    """What is left an op of its own is what runs op by op; Inductor's fused copy may draw a code from its register."""
    torch.manual_seed(0)
    model, x = Net(), torch.randn(256, 64)
    (eager,) = gradients(model, x, compiler="eager")
    (kernels,) = gradients(model, x, compiler="inductor", lowering="kernel")
    for name, gradient in eager.items():
        assert (kernels[name] - gradient).norm() <= 1e-3 * gradient.norm(), name


@pytest.mark.cpp
@pytest.mark.parametrize(("lowering", "alone"), [("auto", False), ("fused", False), ("kernel", True)])
def test_no_op_stands_alone_unless_told(lowering: str, alone: bool) -> None:
    """What stands alone is called by its name in the code that Inductor wrote."""
    torch.manual_seed(0)
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        gradients(Net(), torch.randn(256, 64), compiler="inductor", lowering=lowering)
    assert any("torch.ops.approx_fx." in re.sub(r"(?m)#.*", "", source) for source in sources) == alone


@pytest.mark.cpp
def test_mode_goes_with_other_options() -> None:
    """torch.compile takes no `mode` beside `options`: it is one of them."""
    torch.manual_seed(0)
    model, x = Net(), torch.randn(256, 64)
    seen: list[Any] = []

    def spy(graph: Any) -> None:
        seen.append(torch._inductor.config.coordinate_descent_tuning)

    with torch._inductor.config.patch(force_disable_caches=True, post_grad_custom_post_pass=spy):
        gradients(model, x, compiler="inductor", mode="max-autotune-no-cudagraphs")
        options = {"bits": 4, "mode": "max-autotune-no-cudagraphs", "inductor": {"epilogue_fusion": False}}
        torch.compile(copy.deepcopy(model), backend="approx_fx", options=options)(x)
    assert len(seen) >= 3 and all(seen)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "max-autotun"}, r"mode='max-autotun' is not allowed: mode is one of .* Did you mean 'max-autotune'"),
        ({"inductor": {"epilog_fusion": True}}, r"Inductor has no such option. Did you mean 'epilogue_fusion'"),
        ({"inductor": ["epilogue_fusion"]}, r"inductor is a mapping from the names of Inductor's options"),
        ({"patches": ["peak_estimat"]}, r"patches='peak_estimat' is not allowed: .* Did you mean 'peak_estimate'"),
        ({"patches": "peak_estimate"}, r"patches is a list of names, or None \(all\)"),
        ({"keep_freed_memory": 1}, r"keep_freed_memory=1 is not allowed: keep_freed_memory is True or False"),
        (
            {"chunk_loss": "allways"},
            r"chunk_loss='allways' is not allowed: chunk_loss is True \(where it lowers the peak\), 'always' "
            r"\(wherever it is possible\) or False. Did you mean 'always'",
        ),
    ],
)
def test_what_goes_to_inductor_is_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ApproxFxError, match=sentence):
        approx_fx.convert(Net(), **options)


def test_no_cuda_graph_holds_a_key() -> None:
    """A replay would draw the numbers of the step in which the graph was recorded."""
    assert torch.Tag.cudagraph_unsafe in torch.ops.approx_fx.rounding_key.default.tags


def test_lowering_is_one_of_three() -> None:
    with pytest.raises(ApproxFxError, match=r"lowering='kernels' is not allowed: .* Did you mean 'kernel'"):
        approx_fx.convert(Net(), lowering="kernels")
