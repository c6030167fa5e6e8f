"""Fake calls remembered by their arguments' metadata: a new tensor like the one that torch would give, each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from capture import capture
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from approx_fx.host import evaluator, fake
from approx_fx.host.evaluator import Evaluator
from approx_fx.ops import OPS

aten = torch.ops.aten


def like(value: Any) -> Any:
    return value if value is None else (value.shape, value.stride(), value.storage_offset(), value.dtype, value.device)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Up to four dimensions in any order, now and then with one that is broadcast, or a part of a larger tensor."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.bool]))
    value = torch.zeros(shape, dtype=dtype).permute(draw(st.permutations(range(len(shape)))))
    if draw(st.booleans()):
        value = value[:1].expand(3, *value.shape[1:])
    return value[draw(st.integers(0, value.shape[0] - 1)) :]


UNARY = (aten.relu.default, aten.neg.default, aten.clone.default, aten.sum.default, aten.gt.Scalar)


@given(value=tensors(), number=st.sampled_from([0, 1, 1.0, True]), op=st.sampled_from(UNARY))
def test_a_remembered_call_gives_what_torch_gives(value: Tensor, number: Any, op: Any) -> None:
    mode = FakeTensorMode()
    evaluate = Evaluator(mode)
    args = (mode.from_tensor(value), *((number,) if op is aten.gt.Scalar else ()))
    if value.dtype is torch.bool and op is aten.neg.default:
        return
    first, second = evaluate(op, args, {}), evaluate(op, args, {})
    assert len(evaluate.known) == 1
    assert like(first) == like(second) == like(fake.evaluate(mode, op, args, {}))
    assert type(second) is FakeTensor and second.fake_mode is mode
    assert second.untyped_storage()._cdata != first.untyped_storage()._cdata


def test_kinds_of_numbers_are_told_apart() -> None:
    mode = FakeTensorMode()
    evaluate = Evaluator(mode)
    for number, dtype in ((1, torch.int64), (1.0, torch.float32), (True, torch.int64)):
        with mode:
            ints = torch.zeros(3, dtype=torch.int64)
        assert evaluate(aten.mul.Tensor, (ints, number), {}).dtype is dtype
    assert len(evaluate.known) == 3


def test_several_outputs_some_of_them_none() -> None:
    mode = FakeTensorMode()
    evaluate = Evaluator(mode)
    with mode:
        x, w = torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3)
        grad = torch.zeros(2, 4, 6, 6)
    args = (grad, x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    first, second = (evaluate(aten.convolution_backward.default, args, {}) for _ in range(2))
    assert len(evaluate.known) == 1
    assert [like(item) for item in first] == [like(item) for item in second]
    assert second[0] is None and second[2] is None


@pytest.mark.parametrize("name", sorted(OPS))
def test_our_ops_may_be_remembered(name: str) -> None:
    assert not OPS[name].overload._schema.is_mutable


def test_views_mutations_and_symbols_are_not_remembered() -> None:
    mode = FakeTensorMode(shape_env=torch.fx.experimental.symbolic_shapes.ShapeEnv())
    evaluate = Evaluator(mode)
    with mode:
        x = torch.zeros(4, 6)
    view = evaluate(aten.view.default, (x, [24]), {})
    assert evaluate(aten.view.default, (x, [24]), {}).untyped_storage()._cdata == x.untyped_storage()._cdata
    assert view.shape == (24,)
    with mode:
        image, row = torch.zeros(2, 3, 4, 4), torch.zeros(3)
    evaluate(aten._native_batch_norm_legit.default, (image, row, row, row, row, True, 0.1, 1e-5), {})
    dynamic = torch.zeros(5, 7)
    torch._dynamo.mark_dynamic(dynamic, 0)
    context = torch.fx.experimental.symbolic_shapes.StatelessSymbolicContext(
        [
            torch.fx.experimental.symbolic_shapes.DimDynamic.DYNAMIC,
            torch.fx.experimental.symbolic_shapes.DimDynamic.STATIC,
        ]
    )
    symbolic = mode.from_tensor(dynamic, symbolic_context=context)
    assert isinstance(symbolic.shape[0], torch.SymInt)
    evaluate(aten.relu.default, (symbolic,), {})
    assert evaluate.known == {}


def test_a_deeper_network_asks_torch_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(depth: int) -> int:
        calls: list[Any] = []

        def count(mode: Any, target: Any, args: Any, kwargs: Any) -> Any:
            calls.extend([target] if evaluator._mutates_nothing(target) else [])
            return own(mode, target, args, kwargs)

        blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(depth)]
        with monkeypatch.context() as patched:
            own = evaluator.evaluate
            patched.setattr(evaluator, "evaluate", count)
            seen = capture(nn.Sequential(*blocks), torch.randn(4, 8, 16, 16), run=False, min_bytes=1024)
        assert seen.done is not None and len(seen.done.stored) >= depth
        return len(calls)

    assert 0 < asked(6) == asked(3)


def test_meta_of_all_new_nodes_is_theirs_alone() -> None:
    """Inductor takes values that share a storage for views of each other."""
    model = nn.Sequential(*[nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(4)])
    seen = capture(model, torch.randn(4, 8, 16, 16), run=False, min_bytes=1024)
    assert seen.done is not None
    for half in (seen.done.forward, seen.done.backward):
        made = [node for node in half.graph.nodes if "approx_fx" in str(node.target)]
        memories = [v.untyped_storage()._cdata for node in made for v in tree_leaves(node.meta["val"])]
        assert len(memories) > 4 or half is seen.done.forward
        assert len(set(memories)) == len(memories)
