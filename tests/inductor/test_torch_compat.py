"""The private interfaces of torch that are used: each test fails clearly when torch changes one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import approx_fx
from approx_fx import backend
from approx_fx.bench import profiler
from approx_fx.config import Config
from approx_fx.inductor import compile as inductor
from approx_fx.joint.graph import joint_outputs, must_save
from approx_fx.process import recursion_limit
from approx_fx.report.build import saved_bytes
from approx_fx.torch_compat import aot_partitioner as aot
from approx_fx.torch_compat import decompositions, fake_tensors
from approx_fx.torch_compat.autograd import in_backward
from tests.support.capture import capture
from tests.support.nets import ConvBnRelu, Residual, images


def test_the_partitioners_saved_set_is_known_without_partitioning() -> None:
    """aot_partitioner.saved_by_torch: what a compile reports as `before` is what explain finds by partitioning."""
    model = Residual()
    told = approx_fx.explain(model, images())
    approx_fx.convert(model, compiler="eager")
    model(images()).sum().backward()
    assert approx_fx.report(model).saved_before == told.saved_before > 0


def test_the_graphs_of_a_sharded_module_are_found(tmp_path: Path) -> None:
    """fsdp.unsharded_parameters: the backend alone knows a model by a parameter that its graphs read."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = ConvBnRelu()
        model.compile(backend="approx_fx", fullgraph=True, options={"bits": 4, "compiler": "eager"})
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        for _ in range(2):
            model(images()).sum().backward()
        assert len(approx_fx.report(model).graphs) == 1
        assert approx_fx.report(model).ratio > 4
    finally:
        torch.distributed.destroy_process_group()


def test_split_passes_exactly_what_it_is_told() -> None:
    seen = capture(ConvBnRelu(), images(), run=False)
    assert seen.done is not None
    names = {node.name for nodes in seen.done.stored.values() for node in nodes}
    got = {n.name for n in seen.done.backward.graph.find_nodes(op="placeholder") if not aot.is_tangent(n)}
    assert {name for name in got if not name.startswith("primals")} == names
    forward = joint_outputs(seen.done.forward, 10**6)[0]
    assert {node.name for node in forward if node is not None} >= names


def test_tags_keep_a_node_in_its_half() -> None:
    graph = torch.fx.Graph()
    node = graph.call_function(torch.ops.aten.relu.default, (graph.placeholder("primals_1"),))
    assert not aot.in_backward_only(node)
    aot.keep_in_backward(node)
    assert aot.in_backward_only(node)
    assert not any(map(aot.must_recompute, graph.nodes)) and not any(map(must_save, graph.nodes))


def test_batch_norm_is_decomposed_as_the_patterns_expect() -> None:
    assert torch.ops.aten._native_batch_norm_legit_functional.default in decompositions.inductor_decompositions()
    assert torch.ops.aten.threshold_backward.default in decompositions.inductor_decompositions()
    with fake_tensors.fake_mode_for_model() as mode:
        values = [mode.from_tensor(torch.ones(4, 4))]
    module = decompositions.trace_to_aten(lambda x: torch.relu(x) + 1, values, mode)
    assert [n.name for n in module.graph.nodes if n.op == "call_function"] == ["relu", "add"]


def test_the_hook_is_part_of_the_cache_key() -> None:
    first, second = inductor.Partitioner(Config(bits=4).key(), print), inductor.Partitioner(Config(bits=2).key(), print)
    assert first.uuid() != second.uuid()
    assert first == inductor.Partitioner(Config(bits=4).key(), repr)
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
    assert saved_bytes([source, value, view]) == 64
    assert saved_bytes([source, view], [source]) == 128  # an input that another graph computed


def test_sources_may_nest_deep() -> None:
    """A thousand batch norms' buffers, as AOTAutograd adds them up."""
    source = " + ".join(["[]"] * 5000)
    before = sys.getrecursionlimit()
    with recursion_limit.raised_recursion_limit():
        assert eval(compile(source, "sum", "eval")) == []
    assert sys.getrecursionlimit() == before


def test_overlapping_compiles_leave_the_limit_as_it_was() -> None:
    before = sys.getrecursionlimit()
    first, second = recursion_limit.raised_recursion_limit(), recursion_limit.raised_recursion_limit()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getrecursionlimit() == recursion_limit.RECURSION_LIMIT
    second.__exit__(None, None, None)
    assert sys.getrecursionlimit() == before


@pytest.mark.cpp
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
    assert limits and limits[0] >= recursion_limit.RECURSION_LIMIT


def test_a_backward_knows_that_it_is_one() -> None:
    """`in_backward` rests on a private function of torch: forwards of a step are counted by it."""
    seen = [in_backward()]
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda _: seen.append(in_backward()))
    x.sum().backward()
    assert [*seen, in_backward()] == [False, True, False]
