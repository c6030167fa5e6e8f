"""Halves extracted with each node copied once, and put in order in place: torch's own halves, node for node."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from capture import Captured, capture
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import PATTERNS, images
from torch import Tensor, fx, nn
from torch._functorch import partitioners
from torch.utils.checkpoint import checkpoint

from approx_fx.host import extract, split


class Mutating(nn.Module):
    """A buffer that the forward counts in, a draw that nobody reads, and an output that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.register_buffer("count", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        self.count.add_(x.detach().sum((0, 2, 3)))
        torch.rand_like(x)
        return self.second(x) * self.count.sum().sigmoid()


class Checkpointed(nn.Module):
    """Recomputed by torch.utils.checkpoint: nodes of the forward in the backward, ahead of their readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GELU()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    **PATTERNS,
    "mutating": lambda: (Mutating(), (images(),)),
    "checkpointed": lambda: (Checkpointed(), (images(),)),
}


@contextlib.contextmanager
def torchs_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Splitting as torch does it: nodes copied and dropped, and a copy made in the engine's order."""

    def sort(graph: fx.Graph) -> None:
        module = fx.GraphModule(torch.nn.Module(), graph)
        ordered = partitioners.reordering_to_mimic_autograd_engine(module).graph
        at = {node.name: node for node in graph.nodes}
        names = [node.name for node in ordered.nodes]
        for name in names[:-1]:
            at[names[-1]].prepend(at[name])
        for node in reversed(list(graph.nodes)):
            if node.name not in names:
                graph.erase_node(node)

    with monkeypatch.context() as patched:
        patched.setattr(split, "copied_once", contextlib.nullcontext)
        patched.setattr(split, "sort_as_autograd", sort)
        yield


def halves(seen: Captured) -> list[str]:
    """Both halves as code, with what torch notes at the outputs, and which names the nodes carry."""
    assert seen.done is not None
    lines: list[str] = []
    for module in (seen.done.forward, seen.done.backward):
        output = next(iter(module.graph.find_nodes(op="output")))
        lines.append(module.code)
        lines.append(str([node.name for node in module.graph.nodes]))
        lines.append(str(noted(output)))
    return lines


NOTES = "output_stack_traces"


def noted(node: fx.Node) -> dict[str, str]:
    """What is noted at a node, but for the outputs' stack traces where this torch does not note them: 2.11."""
    told = NOTES in inspect.getsource(partitioners)
    return {key: str(value) for key, value in node.meta.items() if told or key != NOTES}


@pytest.mark.parametrize("name", NETS)
def test_both_halves_are_torchs_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = NETS[name]()
    mine = halves(capture(model, *inputs, run=False, min_bytes=1024))
    with torchs_own(monkeypatch):
        theirs = halves(capture(model, *inputs, run=False, min_bytes=1024))
    assert mine == theirs


def test_a_size_that_is_a_symbol_is_passed_on_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x,) = NETS["residual"]()
    torch._dynamo.mark_dynamic(x, 0)
    mine = halves(capture(model, x, run=False, min_bytes=1024))
    with torchs_own(monkeypatch):
        theirs = halves(capture(model, x, run=False, min_bytes=1024))
    assert mine == theirs
    assert "sym_size" in mine[0] or "primals" in mine[0]


def test_no_node_is_copied_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    left: list[str] = []
    own, through = fx.Graph.node_copy, split.split

    def copy(self: fx.Graph, node: fx.Node, transform: Any = lambda x: x) -> fx.Node:
        copied.append(node.name)
        return own(self, node, transform)

    def counted(*args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(fx.Graph, "node_copy", copy)
            found = through(*args, **kwargs)
        left.extend(n.name for half in found for n in half.graph.nodes if n.op not in ("placeholder", "output"))
        return found

    model, inputs = NETS["residual"]()
    monkeypatch.setattr(split, "split", counted)
    capture(model, *inputs, run=False, min_bytes=1024)
    assert len(left) > 50
    assert sorted(copied) == sorted(left)


TAGS = (None, None, None, "is_backward", "must_be_in_backward", "must_be_in_forward")


@st.composite
def joints(draw: st.DrawFn) -> tuple[fx.Graph, list[fx.Node], list[Any]]:
    """A graph of sums, of copies into an input, and of draws of random numbers; values to start from; outputs."""
    graph = fx.Graph()
    nodes = [graph.placeholder(name) for name in ("primals_1", "primals_2", "tangents_1", "tangents_2")]
    for index in range(draw(st.integers(1, 14))):
        pick = st.sampled_from(nodes)
        kind = draw(st.sampled_from(["add", "add", "add", "copy_", "rand_like"]))
        if kind == "add":
            node = graph.call_function(torch.ops.aten.add.Tensor, (draw(pick), draw(pick)))
        elif kind == "copy_":
            node = graph.call_function(torch.ops.aten.copy_.default, (draw(st.sampled_from(nodes[:4])), draw(pick)))
        else:
            node = graph.call_function(torch.ops.aten.rand_like.default, (draw(pick),))
        node.meta = {"partitioner_tag": draw(st.sampled_from(TAGS)), "stack_trace": f"line {index}"}
        nodes.append(node)
    inputs = draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
    outputs = draw(st.lists(st.sampled_from([*nodes, None]), max_size=4))
    graph.output(tuple(outputs))
    return graph, inputs, outputs


def shown(graph: fx.Graph) -> list[str]:
    return [f"{node.format_node()} {noted(node)}" for node in graph.nodes]


def outcome(extracted: Callable[..., fx.Graph], *args: Any) -> Any:
    try:
        return shown(extracted(*args))
    except (AssertionError, RuntimeError) as error:
        return type(error), str(error)


@settings(max_examples=500)
@given(joint=joints(), subgraph=st.sampled_from(["forward", "backward", None]), data=st.data())
def test_any_half_is_extracted_as_torch_does(joint: Any, subgraph: str | None, data: st.DataObject) -> None:
    graph, inputs, outputs = joint
    theirs = getattr(partitioners, extract.EXTRACT)
    descs = [str(item) for item in outputs]
    again = data.draw(st.lists(st.sampled_from(inputs), min_size=1, unique=True))
    with extract.copied_once():
        mine = getattr(partitioners, extract.EXTRACT)
        for given_inputs in (inputs, again, inputs):
            args = (graph, given_inputs, outputs, descs, subgraph)
            assert outcome(mine, *args) == outcome(theirs, *args)


@settings(max_examples=300)
@given(joint=joints())
def test_any_backward_is_sorted_as_torch_does(joint: Any) -> None:
    graph, _, _ = joint
    theirs = partitioners.reordering_to_mimic_autograd_engine(fx.GraphModule(torch.nn.Module(), graph)).graph
    expected = shown(theirs)
    split.sort_as_autograd(graph)
    graph.lint()
    assert shown(graph) == expected


def test_an_output_that_cannot_be_computed_is_left_to_torch() -> None:
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    total = graph.call_function(torch.ops.aten.add.Tensor, (a, b))
    graph.output((total,))
    assert extract.needed(graph, [a], [total], "forward") is None
    assert extract.needed(graph, [a, b], [total], "forward") == [total]
    with extract.copied_once(), pytest.raises(AssertionError, match="invalid, but is output"):
        getattr(partitioners, extract.EXTRACT)(graph, [a], [total], [None], "forward")


def test_torchs_function_is_put_back() -> None:
    before = getattr(partitioners, extract.EXTRACT)
    with pytest.raises(ZeroDivisionError), extract.copied_once():
        assert getattr(partitioners, extract.EXTRACT) is not before
        raise ZeroDivisionError
    assert getattr(partitioners, extract.EXTRACT) is before
