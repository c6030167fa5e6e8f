"""Nothing that a compile does outlasts it in the process or on disk, for other models least of all."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.utils import fresh_cache

import approx_fx
from approx_fx.inductor import compile as inductor
from approx_fx.inductor import patches
from approx_fx.peak.dry_run import generated_code
from tests.support.nets import ConvBnRelu, Residual, images

WATCHED = ("torch._inductor", "torch._functorch", "torch._dynamo", "torch.fx", "networkx")
Snapshot = dict[tuple[str, ...], int]


def snapshot() -> Snapshot:
    """The identity of each function, and of each attribute of each class, of the modules that are watched."""
    seen: Snapshot = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.startswith(WATCHED):
            for key, value in list(vars(module).items()):
                if isinstance(value, FunctionType):
                    seen[name, key] = id(value)
                elif isinstance(value, type) and str(value.__module__).startswith(WATCHED):
                    for attribute, member in list(vars(value).items()):
                        if callable(member) or isinstance(member, (staticmethod, classmethod, property)):
                            seen[name, key, attribute] = id(member)
    return seen


def differences(before: Snapshot) -> list[tuple[str, ...]]:
    """What is another than it was, or is gone; what has been imported since is nobody's fault."""
    after = snapshot()
    return [key for key, value in before.items() if after.get(key) != value]


def step(model: nn.Module, run: Callable[..., Any]) -> None:
    with torch._inductor.config.patch(force_disable_caches=True):
        run(images()).square().mean().backward()


def train(bits: int | None = 4, **options: Any) -> None:
    torch._dynamo.reset()
    model = Residual()
    step(model, approx_fx.convert(model, bits=bits, **options))


def fails() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such layout")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match="no such layout"):
        patch.setattr("torch._inductor.graph.GraphLowering.codegen", broken)
        train(strict=True)


def explains() -> None:
    approx_fx.explain(Residual(), images())


@pytest.mark.cpp
@pytest.mark.parametrize("action", [train, fails, explains], ids=["compile", "exception", "explain"])
def test_torchs_functions_are_what_they_were(action: Callable[[], None]) -> None:
    train()  # what torch itself sets up at a first compile
    explains()
    before, state = snapshot(), (gc.isenabled(), gc.get_threshold(), sys.getrecursionlimit())
    assert len(before) > 10_000
    action()
    assert differences(before) == []
    assert (gc.isenabled(), gc.get_threshold(), sys.getrecursionlimit()) == state


@pytest.mark.cpp
def test_a_replaced_function_would_be_seen() -> None:
    train()
    before = snapshot()
    with patches.applied(None):
        replaced = differences(before)
    expected = [target.split(":")[1] for patch in patches.PATCHES if patches.fits(patch) for target, _ in patch.targets]
    assert {key[-1] for key in replaced} == {path.split(".")[-1] for path in expected}


def plain_code() -> list[str]:
    """What torch.compile writes for a step of a small network."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = ConvBnRelu()
    with generated_code() as sources:
        step(model, torch.compile(model))
    return [source[source.index("import") :] for source in sources]


@pytest.mark.cpp
def test_plain_code_before_and_after_is_the_same() -> None:
    before = plain_code()
    train()
    assert plain_code() == before
    explains()
    assert plain_code() == before


def test_plain_code_beside_is_the_same() -> None:
    """A compile in another thread while ours holds its patches: it runs torch's own functions."""
    inputs = [torch.randint(0, 255, (64, 64), dtype=torch.uint8), torch.randn(64, 64)]

    def compile_(sources: list[str]) -> None:
        graph = fx.symbolic_trace(lambda codes, x: ((codes.float() * x).to(torch.bfloat16) @ x.bfloat16(),))
        with torch._inductor.config.patch(force_disable_caches=True), torch.no_grad(), generated_code() as found:
            compile_fx(graph, inputs)
        sources.extend(source[source.index("import") :] for source in found)

    alone: list[str] = []
    beside: list[str] = []
    compile_(alone)
    with patches.applied(None):
        thread = threading.Thread(target=compile_, args=(beside,))
        thread.start()
        thread.join()
    assert len(alone) == 1 and beside == alone


@pytest.mark.cpp
def test_overlapping_compiles_put_everything_back() -> None:
    train()
    before = snapshot()
    first, second = patches.applied(None), patches.applied(None)
    first.__enter__()
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with second:
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    first.__exit__(None, None, None)
    left.set()
    thread.join()
    assert differences(before) == []


@pytest.mark.cpp
def test_torch_takes_nothing_of_ours_from_its_cache() -> None:
    """The same model, first ours and then torch.compile's, in one cache: two entries are looked up and not found."""
    with fresh_cache():
        torch._dynamo.reset()
        model = ConvBnRelu()
        approx_fx.convert(model)(images()).square().mean().backward()
        folder = inductor.cache_dir()
        assert folder is not None
        ours = {path.suffix for path in (folder / "approx_fx").rglob("*") if path.is_file()}
        assert ours == {".json"}
        torch._dynamo.reset()
        counters.clear()
        plain = ConvBnRelu()
        torch.compile(plain)(images()).square().mean().backward()
        assert counters["inductor"]["fxgraph_cache_hit"] == 0
        assert counters["inductor"]["fxgraph_cache_miss"] == 2


def test_explain_compiles_nobody_anew() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    model = Residual()
    run = torch.compile(model, backend=counter)
    run(images())
    assert counter.frame_count == 1
    approx_fx.explain(Residual(), images())
    approx_fx.explain(model, torch.cat([images(), images()]))
    run(images())
    assert counter.frame_count == 1


@pytest.mark.cpp
def test_explain_of_another_batch_is_not_dynamic() -> None:
    told = [approx_fx.explain(Residual(), torch.randn(batch, *images().shape[1:])) for batch in (4, 8)]
    assert [report.tensors[0].shape[0] for report in told] == [4, 8]
    assert 1.9 < told[1].saved_before / told[0].saved_before < 2.1


class Noted(CustomGraphPass):
    """A user's pass: it notes the graphs that it has seen."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, graph: fx.Graph) -> None:
        self.seen.append(len(graph.nodes))

    def uuid(self) -> str:
        return "noted"


@pytest.mark.cpp
@pytest.mark.parametrize("wrap", [lambda noted: noted, lambda noted: noted.__call__], ids=["pass", "function"])
def test_a_users_pass_and_ours_both_run(wrap: Callable[[Noted], Any], tmp_path: Path) -> None:
    """Weights are saved themselves, which is our pass's doing, and the user's has seen both halves."""
    noted = Noted()
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(64, 64, 3, bias=False))
    torch._dynamo.reset()
    with torch._inductor.config.patch(post_grad_custom_post_pass=wrap(noted)), fresh_cache(dir=str(tmp_path)):
        output = approx_fx.convert(model)(torch.randn(4, 64, 16, 16))
        output.sum().backward(retain_graph=True)
    assert len(noted.seen) == 2
    saved = {tensor.data_ptr() for tensor in output.grad_fn.saved_tensors}
    assert {parameter.data_ptr() for parameter in model.parameters()} <= saved
