"""Decoded at the first use, free at the last: convolutions in two, one cat for a cat of cats, fusions refused."""

from __future__ import annotations

import copy
import inspect
import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._inductor.choices import InductorChoices
from torch._inductor.virtualized import V

import approx_fx
from approx_fx.inductor import choices
from approx_fx.inductor.switches import VARIABLE
from approx_fx.joint.op_table import name_of
from approx_fx.passes.node_builder import Builder
from approx_fx.passes.split_conv_backward import split_conv_backward
from approx_fx.peak.timeline import timeline
from approx_fx.torch_compat.fake_tensors import fake_mode_for_model
from models.resnet import resnet20
from tests.support.capture import capture
from tests.support.nets import conv, images

aten = torch.ops.aten

# input, weight, stride, padding, dilation, transposed, output padding, groups; and whether it is parted.
CONVOLUTIONS: list[tuple[tuple[Any, ...], bool]] = [
    (((2, 4, 9, 9), (6, 4, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 1), True),
    (((2, 4, 9, 8), (6, 4, 3, 3), [2, 2], [1, 1], [1, 1], False, [0, 0], 1), True),
    (((2, 4, 9, 12), (6, 4, 1, 1), [2, 2], [0, 0], [1, 1], False, [0, 0], 1), True),
    (((2, 4, 15, 11), (6, 4, 3, 5), [3, 2], [2, 0], [2, 1], False, [0, 0], 1), True),
    (((2, 4, 17), (6, 4, 5), [4], [2], [1], False, [0], 1), True),
    (((2, 4, 5, 6, 7), (6, 4, 3, 3, 3), [1, 2, 1], [1, 1, 1], [1, 1, 1], False, [0, 0, 0], 1), True),
    (((2, 4, 5, 5), (4, 6, 3, 3), [2, 2], [1, 1], [1, 1], True, [1, 1], 1), True),
    (((2, 4, 9, 9), (6, 2, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 2), False),
]


def backward_of(
    arguments: tuple[Any, ...], decoded: bool, data_last: bool = False
) -> tuple[fx.GraphModule, list[Tensor]]:
    """A graph of a convolution's gradients, of a decoded input or one that was saved as it is; and its inputs."""
    generator = torch.Generator().manual_seed(0)
    data, weight = (torch.randn(shape, generator=generator) for shape in arguments[:2])
    shape = arguments[2:]
    if data_last:
        data = data.contiguous(memory_format=torch.channels_last)
    out = aten.convolution(data, weight, torch.zeros(6), *shape)
    grad = torch.randn(out.shape, generator=generator)
    mode, graph = fake_mode_for_model(), fx.Graph()
    with mode as opened:
        nodes = []
        for name, value in (("grad", grad), ("data", data), ("weight", weight)):
            nodes.append(graph.placeholder(name))
            nodes[-1].meta["val"] = opened.from_tensor(value)
    build = Builder(graph, opened)
    if decoded:
        nodes[1] = build.call(aten.relu.default, nodes[1])
    both = build.call(aten.convolution_backward.default, *nodes, [6], *shape, [True, True, True])
    graph.output(tuple(graph.call_function(operator.getitem, (both, index)) for index in range(3)))
    return fx.GraphModule({}, graph), [grad, data, weight]


@pytest.mark.parametrize(("arguments", "parted"), CONVOLUTIONS, ids=lambda case: str(case)[:60])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
def test_gradients_of_a_convolution_in_two(arguments: tuple[Any, ...], parted: bool, channels_last: bool) -> None:
    module, inputs = backward_of(arguments, decoded=True)
    if channels_last and len(arguments[0]) == 4:
        inputs = [value.contiguous(memory_format=torch.channels_last) for value in inputs]
    expected = module(*inputs)
    split_conv_backward(module)
    assert ("convolution" in map(name_of, module.graph.nodes)) == parted
    for actual, value in zip(module(*inputs), expected, strict=True):
        assert actual.stride() == value.stride()
        torch.testing.assert_close(actual, value, rtol=1e-6, atol=1e-5)


def test_a_gradient_of_other_strides_stays_in_one() -> None:
    """A channels-last input with a contiguous gradient: a view behind the former counts on its strides."""
    module, _ = backward_of(CONVOLUTIONS[0][0], decoded=True, data_last=True)
    before = str(module.graph)
    split_conv_backward(module)
    assert str(module.graph) == before


def test_an_input_that_is_saved_as_it_is_stays_in_one() -> None:
    module, _ = backward_of(CONVOLUTIONS[0][0], decoded=False)
    before = str(module.graph)
    split_conv_backward(module)
    assert str(module.graph) == before


class Dense(nn.Module):
    """Three layers that each read all that came before, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (16, 24, 32, 40))
        self.convs = nn.ModuleList(conv(width, 8) for width in (16, 24, 32, 40))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return x


@pytest.mark.cpp
def test_a_cat_of_cats_is_made_in_one() -> None:
    """Every cat in the backward is of decoded pieces, none of a cat; and each has pieces of its own."""
    seen = capture(Dense(), images(), run=False)
    assert seen.done is not None
    cats = seen.done.backward.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert sorted(len(cat.args[0]) for cat in cats) == [2, 3, 4]
    pieces = [piece for cat in cats for piece in cat.args[0]]
    assert all(name_of(piece) != "cat" and len(piece.users) == 1 for piece in pieces)


@pytest.mark.cpp
def test_gradients_of_a_cat_of_cats() -> None:
    torch.manual_seed(0)
    exact, x = Dense(), images()
    ours = approx_fx.convert(copy.deepcopy(exact), bits=8)
    for model in (exact, ours):
        model(x).square().sum().backward()
    for mine, theirs in zip(ours.parameters(), exact.parameters(), strict=True):
        assert torch.cosine_similarity(mine.grad.flatten(), theirs.grad.flatten(), dim=0) > 0.999


def peak(late: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    torch._dynamo.reset()
    model, inputs = resnet20(16)[:2]
    run = approx_fx.convert(model, bits=4)
    with monkeypatch.context() as patch, torch._inductor.config.patch(force_disable_caches=True):
        if not late:
            patch.setenv(VARIABLE, "peak_aware_fusion")
        return timeline(lambda: run(*inputs).square().mean().backward()).peak.live


@pytest.mark.slow
def test_refused_fusions_lower_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak(True, monkeypatch) < peak(False, monkeypatch)


def buffer(size: int, *readers: str) -> Any:
    node = SimpleNamespace(has_tensor_output=lambda: True, get_size=lambda: [size], get_dtype=lambda: torch.uint8)
    users = [SimpleNamespace(is_weak=False, get_name=lambda name=name: name) for name in readers]
    return SimpleNamespace(node=node, users=users)


class Kernel(SimpleNamespace):
    __hash__ = object.__hash__


def kernel(name: str, order: int, reads: list[str], behind: set[str] = frozenset()) -> Any:
    """A kernel that reads buffers by name, and comes behind others."""
    outputs: list[Any] = []
    return Kernel(
        min_order=order,
        ancestors=behind,
        read_writes=SimpleNamespace(reads=[SimpleNamespace(name=read) for read in reads]),
        outputs=outputs,
        get_outputs=lambda: outputs,
        get_operation_names=lambda: {name},
    )


def test_a_fusion_that_makes_early() -> None:
    """a, a convolution, and b, which waits for neither: what b makes would live through the convolution."""
    early, late = kernel("a", 1, ["codes"]), kernel("b", 3, ["codes", "freed"])
    conv = choices.ExternKernels({"conv": kernel("conv", 2, ["made", "gradient"], {"a"})})
    late.outputs.append(buffer(60, "later"))
    buffers = {"decoded": late.outputs[0], "freed": buffer(30, "b")}
    for kernels in ((early, late), (late, early)):
        assert choices.extends_live_ranges(*kernels, conv, buffers, 29)
        assert not choices.extends_live_ranges(*kernels, conv, buffers, 30)
    # Nothing between them, nothing held.
    assert not choices.extends_live_ranges(early, late, choices.ExternKernels({}), buffers, 0)


def test_a_fusion_that_makes_late() -> None:
    """a, a kernel of what a makes, a convolution of that and of a gradient; b waits for it, and what a makes with b."""
    early, late = kernel("a", 1, ["codes"]), kernel("b", 4, ["codes", "out"], {"a", "next", "conv"})
    conv = choices.ExternKernels({"conv": kernel("conv", 3, ["more", "gradient"], {"a", "next"})})
    buffers = {
        "made": buffer(100, "next"),
        "more": buffer(90, "conv"),
        "gradient": buffer(80, "conv"),
        "out": buffer(70, "b"),
    }
    assert choices.extends_live_ranges(early, late, conv, buffers, 169)
    assert not choices.extends_live_ranges(early, late, conv, buffers, 170)


def test_where_a_fused_kernel_runs() -> None:
    """One made of a kernel before a convolution and of one that waits for it runs behind: none is between it and b."""
    fused, late = kernel("a", 1, ["codes"], {"conv"}), kernel("b", 3, ["codes"])
    conv = choices.ExternKernels({"conv": kernel("conv", 2, ["gradient"])})
    late.outputs.append(buffer(60, "later"))
    assert not choices.extends_live_ranges(fused, late, conv, {"decoded": late.outputs[0]}, 0)


def test_the_choice_that_is_ours() -> None:
    """torch._inductor.choices: the one method and its parameters; a user's own choices stay."""
    parameters = inspect.signature(InductorChoices.can_fuse_horizontal).parameters
    assert list(parameters) == ["scheduler", "node1", "node2", "shared_data_score"]
    assert type(V.choices) is InductorChoices
    assert isinstance(choices.peak_aware_choices(), InductorChoices)

    class Own(InductorChoices):
        pass

    with V.set_choices_handler(Own()):
        assert choices.peak_aware_choices() is None
