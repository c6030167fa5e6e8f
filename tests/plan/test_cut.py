"""The minimum cut against brute force, and the plan's decisions on small graphs."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import noise_loss
from approx_fx.joint.op_table import TABLE, name_of
from approx_fx.plan.min_cut import Problem, minimum_cut
from tests.support.capture import capture
from tests.support.nets import PATTERNS, ConvBnRelu, Residual, images, rows


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Random small problems: values in order, each recomputable from earlier ones or not, masks owned by values."""
    graph = fx.Graph()
    count = draw(st.integers(2, 7))
    nodes = [graph.placeholder(f"v{index}") for index in range(count)]
    price = {node: draw(st.integers(0, 9)) for node in nodes}
    recompute: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for index, node in enumerate(nodes):
        if index and draw(st.booleans()):
            sources = draw(st.lists(st.sampled_from(nodes[:index]), min_size=1, max_size=3, unique=True))
            recompute[node] = tuple(sources)
    owners: dict[fx.Node, tuple[fx.Node, ...]] = {}
    if draw(st.booleans()):
        mask, owner = draw(st.lists(st.sampled_from(nodes), min_size=2, max_size=2, unique=True))
        recompute.pop(mask, None)
        owners[owner] = (mask,)
    demanded = draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
    return Problem(price, frozenset(), recompute, owners, tuple(demanded))


def cheapest(problem: Problem) -> int:
    """The least price over all ways to keep, compute again, or leave out each value that meet every constraint."""
    values = list(problem.price)
    best = sum(problem.price.values())
    for ways in itertools.product(("left out", "kept", "computed"), repeat=len(values)):
        way = dict(zip(values, ways, strict=True))
        available = {value for value in values if way[value] != "left out"}
        computed = [value for value in values if way[value] == "computed"]
        if (
            available.issuperset(problem.demanded)
            and all(value in problem.recompute and available.issuperset(problem.recompute[value]) for value in computed)
            and all(available.issuperset(problem.owners.get(value, ())) for value in available)
        ):
            best = min(best, sum(problem.price[value] for value in values if way[value] == "kept"))
    return best


@given(problems())
@settings(max_examples=200, deadline=None)
def test_cut_is_the_cheapest(problem: Problem) -> None:
    cut = minimum_cut(problem)
    available = set(cut.kept) | set(cut.recomputed)
    assert set(problem.demanded) <= available
    for value in cut.recomputed:
        assert all(source in available for source in problem.recompute[value])
    assert sum(problem.price[value] for value in cut.kept) == cut.bits
    assert all(available.issuperset(problem.owners.get(value, ())) for value in available)
    assert cut.bits == cheapest(problem)


def test_no_decision_may_be_recomputed_or_read_approximately() -> None:
    decisions = [row for row in TABLE.values() if row.decides or row.recompute_from_exact]
    assert decisions and not any(row.recompute or row.tolerant != () for row in decisions)


def kinds(name: str, **options: object) -> list[str]:
    """The quantizers of the large anchors of a pattern, in graph order."""
    model, inputs = PATTERNS[name]()
    seen = capture(model, *inputs, run=False, min_bytes=4096, **options)
    assert seen.done is not None
    return [q.name for q in seen.done.plan.anchors.values() if q.name != "exact"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv_bn_relu", ["channel"]),
        ("conv_bn_relu6", ["channel", "bitmask"]),
        ("conv_bn_hardswish", ["channel", "bitmask"]),
        ("residual", ["channel", "channel", "channel", "bitmask"]),
        ("pre_activation", ["channel", "channel"]),
        ("no_relu", ["channel"]),
        ("plain", ["relu", "unit", "unit"]),
        ("dropout", ["relu"]),
        # one code of the normalised row, one of the pre-activation
        ("gelu_block", ["group", "group"]),
        # the stream once, gate and up
        ("swiglu", ["group", "group", "group"]),
        # q, k and v in one code, and the output; log-sum-exp is exact
        ("attention", ["group", "group"]),
        ("softmax", ["relu"]),
        ("group_norm_silu", ["group"]),
        ("instance_norm_pool", ["group", "group", "index"]),
    ],
)
def test_one_code_serves_a_chain(name: str, expected: list[str]) -> None:
    assert sorted(kinds(name, bits=4)) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu_block", ["row", "group"]),
        ("swiglu", ["row", "group", "group"]),
        ("instance_norm_pool", ["row", "group", "index"]),
    ],
)
def test_a_norm_s_input_in_units_of_its_rows_sigma(name: str, expected: list[str]) -> None:
    """No scale is stored: the statistics are the ones that the norm's own backward reads."""
    assert sorted(kinds(name, bits=4, rows="sigma")) == sorted(expected)
    model, inputs = PATTERNS[name]()
    by_rows = approx_fx.explain(model, *inputs, rows="sigma")
    assert by_rows.saved_after <= approx_fx.explain(model, *inputs).saved_after


def test_a_dropout_mask_is_a_bit_where_the_seed_does_not_repeat_it() -> None:
    assert sorted(kinds("dropout", bits=4, compiler="eager")) == ["bitmask", "relu"]


class Singular(nn.Module):
    """Roots, logarithms and quotients of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        return self.c(torch.log(y * y + 0.5) + y / (z * z + 0.1))


def test_what_is_read_near_a_singularity_is_exact() -> None:
    """A few bits of a denominator would give a gradient without a bound: it is kept exact, with the reason."""
    model = Singular()
    report = approx_fx.explain(model, rows(), min_bytes=256, strict=True)
    assert {row.reason for row in report.kept} == {"reader"}
    reference = copy.deepcopy(model)
    approx_fx.convert(model, bits=8, compiler="eager", min_bytes=256, strict=True)
    for net in (model, reference):
        noise_loss(net(rows())).backward()
    ours, exact = flat_gradients(model), flat_gradients(reference)
    assert ours @ exact / (ours.norm() * exact.norm()) > 0.99


def test_a_chain_is_found_with_its_parts() -> None:
    seen = capture(ConvBnRelu(), images(), run=False)
    assert seen.done is not None
    (chain,) = seen.done.plan.batch_norms
    assert chain.pattern == "batch_norm_affine"
    assert name_of(chain.x) == "convolution" and chain.dim == 1
    assert name_of(chain.rstd) == "rsqrt" and name_of(chain.mean) == "getitem"
    assert chain.weight is not None and chain.bias is not None
    assert [mask.threshold for mask in chain.masks] == [0.0]


def test_the_stream_option_anchors_residual_sums() -> None:
    def kept(stream: int) -> set[str]:
        seen = capture(Residual(), images(), run=False, stream=stream)
        assert seen.done is not None
        return {name_of(value) for value, q in seen.done.plan.anchors.items() if q.name != "exact"}

    assert "relu" in kept(0)
    assert "relu" not in kept(8)
