"""The private interfaces of torch that are used: each test fails clearly when torch changes one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import sympy
import torch
from capture import capture
from hypothesis import given
from nets import ConvBnRelu, Residual, images
from torch import nn
from torch._inductor import sizevars
from torch._inductor.codegen import cpp
from torch.utils._sympy.functions import FloorDiv, ModularIndexing

import approx_fx
from approx_fx import backend
from approx_fx.config import Config
from approx_fx.describe import saved_bytes
from approx_fx.host import decompose, early, fake, inductor, nested, profiler, quicker, skimmed, split
from approx_fx.host.wrapper import generated_code


def test_the_partitioners_saved_set_is_known_without_partitioning() -> None:
    """host.split.torch_saved: what a compile reports as `before` is what explain finds by partitioning."""
    model = Residual()
    told = approx_fx.explain(model, images())
    approx_fx.convert(model, compiler="eager")
    model(images()).sum().backward()
    assert approx_fx.report(model).saved_before == told.saved_before > 0


def test_split_passes_exactly_what_it_is_told() -> None:
    seen = capture(ConvBnRelu(), images(), run=False)
    assert seen.done is not None
    names = {node.name for nodes in seen.done.stored.values() for node in nodes}
    got = {n.name for n in seen.done.backward.graph.find_nodes(op="placeholder") if not split.is_tangent(n)}
    assert {name for name in got if not name.startswith("primals")} == names
    forward = split.joint_outputs(seen.done.forward, 10**6)[0]
    assert {node.name for node in forward if node is not None} >= names


def test_tags_keep_a_node_in_its_half() -> None:
    graph = torch.fx.Graph()
    node = graph.call_function(torch.ops.aten.relu.default, (graph.placeholder("primals_1"),))
    assert not split.in_backward_only(node)
    split.keep_in_backward(node)
    assert split.in_backward_only(node)
    assert not any(map(split.to_recompute, graph.nodes)) and not any(map(split.to_save, graph.nodes))


def test_batch_norm_is_decomposed_as_the_patterns_expect() -> None:
    assert torch.ops.aten._native_batch_norm_legit_functional.default in decompose.table()
    assert torch.ops.aten.threshold_backward.default in decompose.table()
    with fake.everything() as mode:
        values = [mode.from_tensor(torch.ones(4, 4))]
    module = decompose.trace(lambda x: torch.relu(x) + 1, values, mode)
    assert [n.name for n in module.graph.nodes if n.op == "call_function"] == ["relu", "add"]


def test_the_hook_is_part_of_the_cache_key() -> None:
    first, second = inductor.Hook(Config(bits=4).key(), print), inductor.Hook(Config(bits=2).key(), print)
    assert first.uuid() != second.uuid()
    assert first == inductor.Hook(Config(bits=4).key(), repr)
    assert inductor.cache_dir() is not None


def test_allocations_are_seen() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = torch.empty(1000, dtype=torch.float32)
    assert sum(count for _, count in profiler.allocations(profile)) == kept.nbytes


def test_saved_inputs_are_not_copied() -> None:
    """Inductor lays convolutions out channels-last; a weight must still be saved itself, not as a copy."""
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(64, 64, 3, bias=False))
    approx_fx.convert(model)
    output = model(torch.randn(4, 64, 16, 16))
    saved = {tensor.data_ptr() for tensor in output.grad_fn.saved_tensors}
    assert {parameter.data_ptr() for parameter in model.parameters()} <= saved


def test_bytes_of_aliases_count_once() -> None:
    graph = torch.fx.Graph()
    source = graph.placeholder("primals_1")
    value = graph.call_function(torch.ops.aten.relu.default, (source,))
    view = graph.call_function(torch.ops.aten.view.default, (value, [16]))
    for node, shape in ((source, (4, 4)), (value, (4, 4)), (view, (16,))):
        node.meta["val"] = torch.empty(shape)
    assert saved_bytes([source, value, view], []) == 64
    assert saved_bytes([source, view], [value]) == 0


def _code(model: nn.Module) -> list[str]:
    """What Inductor wrote of each half: its kernels, and the calls and allocations around them."""
    torch._dynamo.reset()
    analyses = sys.modules[cpp.stride_at_vec_range.__module__]
    for remembered in (analyses.stride_at, analyses.stride_at_vec_range, analyses.simplify_index_in_vec_range):
        remembered.cache_clear()
    with torch._inductor.config.patch(force_disable_caches=True), generated_code() as sources:
        approx_fx.convert(model)(images()).sum().backward()
    return [source[source.index("import") :] for source in sources]


def _odd() -> nn.Module:
    """Five channels fill no vector: loops have tails."""
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 5, 3))


@pytest.mark.parametrize("build", [Residual, _odd])
def test_quicker_analyses_write_the_same_code(build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    empty: list[bool] = []
    is_empty = quicker.is_empty
    monkeypatch.setattr(quicker, "is_empty", lambda kernel: empty.append(is_empty(kernel)) or empty[-1])
    alone: list[bool] = []
    vectors_alone = skimmed.vectors_alone
    monkeypatch.setattr(skimmed, "vectors_alone", lambda chosen: alone.append(vectors_alone(chosen)) or alone[-1])
    quick = _code(build())
    assert {*empty} == {True, False}  # both kinds of kernel were met, so the comparison is not of nothing
    # Before torch 2.13 the choice of tiles does not tell what is masked, and nothing is skimmed.
    assert {*alone} == ({True, False} if hasattr(sizevars, "stride_at") else {False})
    for name in ("quicker", "scalars_skimmed"):
        monkeypatch.setattr(inductor, name, contextlib.nullcontext)
    assert len(quick) == 2 and quick == _code(build())


def test_the_last_kernel_of_a_tiled_loop_ends_the_outer_tails_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 rows are vectors and a tail, 32 columns have none: the tail's sums are in the kernel of both tails."""
    tiled: list[bool] = []
    is_empty = quicker.is_empty
    monkeypatch.setattr(
        quicker, "is_empty", lambda kernel: tiled.append(hasattr(kernel, "outer_tail_size")) or is_empty(kernel)
    )
    a, b = torch.randn(20, 32, requires_grad=True), torch.randn(32, 20)
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        found = torch.compile(lambda a, b: (a + b.t()).sum(1), backend="approx_fx")(a, b)
    assert any(tiled)  # the case that this is about was met
    assert torch.allclose(found, (a + b.t()).sum(1), atol=1e-5)


X, Y = sympy.symbols("x y", integer=True, nonnegative=True)
TERMS = [X, Y, FloorDiv(X, 4), ModularIndexing(X, 1, 8), ModularIndexing(Y, 2, 3)]


@given(st.lists(st.tuples(st.integers(-9, 9), st.sampled_from(TERMS)), max_size=4), st.integers(-9, 9))
def test_an_expanded_index_is_the_same_number(products: list[tuple[int, sympy.Expr]], factor: int) -> None:
    index = factor * (sum((number * term for number, term in products), sympy.Integer(3)) + X)
    quick = quicker.expanded(index)
    for x, y in ((0, 0), (3, 5), (17, 11)):
        assert quick.subs({X: x, Y: y}) == index.subs({X: x, Y: y})
    if not index.has(FloorDiv, ModularIndexing):
        assert quicker.expanded(index.subs(X, X + 1) - index) == sympy.simplify(index.subs(X, X + 1) - index)


def test_kernels_compile_as_each_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those submitted are those that the wrapper asks for, so that each is compiled once."""
    submitted: list[str] = []
    submit = early.submit
    monkeypatch.setattr(early, "submit", lambda body, pool: submitted.append(body) or submit(body, pool))
    sources = "".join(_code(Residual()))
    assert submitted and len(submitted) == sources.count(early.CALL)
    assert all(body.strip() in sources for body in submitted)


def test_sources_may_nest_deep() -> None:
    """A thousand batch norms' buffers, as AOTAutograd adds them up."""
    source = " + ".join(["[]"] * 5000)
    before = sys.getrecursionlimit()
    with nested.deep_sources():
        assert eval(compile(source, "sum", "eval")) == []
    assert sys.getrecursionlimit() == before


@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_a_compile_allows_deep_sources(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    partition = backend.partition
    monkeypatch.setattr(
        backend, "partition", lambda *given: limits.append(sys.getrecursionlimit()) or partition(*given)
    )
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        approx_fx.convert(ConvBnRelu(), compiler=compiler)(images()).sum().backward()
    assert limits and limits[0] >= nested.DEPTH
