"""Logits that a training step returns beside its loss: computed when they are read, not kept.

A language model returns (loss, logits), and few training loops read the logits. As an output of the graph they would
exist as a whole, and have an incoming gradient of the same size. In their place the graph returns what they are
computed from, and the caller gets a tensor that computes them, exactly and with gradients, when something reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from ..errors import ApproxFxError
from ..joint.fake_values import numel, varies
from .region import is_worth_chunks

# How many elements of each source are compared, beside its sum, to see whether it has changed.
PROBED = 1024
CHANGED = (
    "the logits of this training step were not kept, and what they are computed from has changed since: read them "
    "before optimizer.step(), or convert with chunk_loss=False."
)


class DeferredLogits(Tensor):
    """F.linear(hidden, weight, bias) in a dtype, without memory until an op reads it.

    For autograd it is an ordinary result, see `_Defer`. Reading it after its sources have changed raises ApproxFxError.
    """

    sources: tuple[Tensor, Tensor, Tensor | None]
    state: Sequence[Any]
    result: Tensor | None

    @staticmethod
    def __new__(
        cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, state: Sequence[Any]
    ) -> DeferredLogits:
        """Defer the product. state: `_state` of the sources, at the time at which they have the right values."""
        shape = (*hidden.shape[:-1], weight.shape[0])
        self = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=hidden.device)
        self.sources, self.result, self.state = (hidden, weight, bias), None, state
        return self

    def materialize(self) -> Tensor:
        """The logits, without a gradient. Raises ApproxFxError if what they are computed from has changed."""
        if self.result is None:
            hidden, weight, bias = self.sources
            with torch.inference_mode(False), torch.no_grad():
                is_freed = any(item is not None and not item.untyped_storage().nbytes() for item in self.sources)
                if is_freed or _differ(self.state, _state(self.sources)):
                    raise ApproxFxError(CHANGED)
                with torch.autocast(self.device.type, enabled=False):
                    operands = [
                        None if item is None else item.detach().to(self.dtype) for item in (hidden, weight, bias)
                    ]
                    self.result = functional.linear(*operands)  # type: ignore[arg-type]
        return self.result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as the logits themselves."""
        return self.materialize().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        """A copy of the logits themselves, without a gradient."""
        return self.materialize().clone()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function; one that asks for memory gets the logits themselves."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(_materialized(args) if func in _OF_MEMORY else args), **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Call an op with the logits."""
        if func is torch.ops.aten.detach.default:
            (item,) = args
            hidden, weight, bias = item.sources
            copy = cls.__new__(cls, hidden, weight, bias, item.dtype, item.state)
            copy.result = item.result
            return copy
        return func(*_materialized(args), **_materialized(kwargs or {}))


_OF_MEMORY = frozenset(
    getattr(Tensor, name)
    for name in ("numpy", "tolist", "__array__", "data_ptr", "untyped_storage", "storage", "__dlpack__")
)


def _materialized(item: Any) -> Any:
    return torch.utils._pytree.tree_map_only(DeferredLogits, DeferredLogits.materialize, item)


def _state(sources: Sequence[Tensor | None]) -> list[Any]:
    """What changes with the tensors: their versions and, as writes to `.data` have none, sums and some elements."""
    state: list[Any] = []
    for item in sources:
        if item is not None:
            flat = item.detach().flatten()
            state += [item._version, flat.sum(), flat[:: max(flat.numel() // PROBED, 1)].clone()]
    return state


def _differ(before: Sequence[Any], now: Sequence[Any]) -> bool:
    return any(
        a != b if isinstance(a, int) else not torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(before, now, strict=True)
    )


class _Defer(torch.autograd.Function):
    """F.linear(hidden, weight, bias) in a dtype: the result has no memory until it is read."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.has_bias = bias is not None
        sources = hidden, weight, bias
        return DeferredLogits.__new__(DeferredLogits, hidden.detach(), weight.detach(), bias, dtype, _state(sources))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            (gradient @ weight.to(gradient.dtype)).to(hidden.dtype) if needs_hidden else None,
            (rows.t() @ hidden.flatten(0, -2).to(gradient.dtype)).to(weight.dtype) if needs_weight else None,
            rows.sum(0).to(weight.dtype) if ctx.has_bias and needs_bias else None,
            None,
        )


@dataclass(frozen=True)
class Deferred:
    """An output that is replaced by its hidden states. position: of the output; weight, bias: among the inputs."""

    position: int
    weight: int
    bias: int | None
    dtype: torch.dtype


def defer_logits(module: fx.GraphModule) -> list[Deferred]:
    """Return the hidden states in the place of logits, where a graph that Dynamo traced returns a loss of them, too.

    The module is changed in place. It is left as it is where something is written to in place behind the logits.
    """
    output = next(iter(module.graph.find_nodes(op="output")))
    results: list[Any] = list(output.args[0]) if isinstance(output.args[0], (list, tuple)) else []
    inputs = {node: index for index, node in enumerate(module.graph.find_nodes(op="placeholder"))}
    losses = [result for result in results if isinstance(result, fx.Node) and _is_loss(result)]
    deferred = []
    for position, result in enumerate(results):
        if not isinstance(result, fx.Node) or result.target is not torch._C._nn.linear or len(result.args) < 2:
            continue
        hidden, weight = result.args[:2]
        bias = result.args[2] if len(result.args) > 2 else result.kwargs.get("bias")
        known = weight in inputs and (bias is None or bias in inputs) and isinstance(hidden, fx.Node)
        is_apart = known and hidden.op not in ("placeholder", "get_attr") and hidden not in results  # type: ignore[union-attr]
        if not is_apart or not _is_large(result, hidden) or not any(_depends(loss, result) for loss in losses):
            continue
        if _written_behind(result) or results.count(result) > 1:
            continue
        results[position] = hidden
        dtype = result.meta["example_value"].dtype
        deferred.append(Deferred(position, inputs[weight], None if bias is None else inputs[bias], dtype))  # type: ignore[index]
    if deferred:
        output.args = (tuple(results),)
        module.recompile()
    return deferred


def with_deferred(compiled: Callable[..., Any], deferred: Sequence[Deferred]) -> Callable[..., Any]:
    """A compiled module that returns `DeferredLogits` where it was changed to return hidden states."""

    def call(*inputs: Any) -> Any:
        results = list(compiled(*inputs))
        for item in deferred:
            hidden, weight = results[item.position], inputs[item.weight]
            bias = None if item.bias is None else inputs[item.bias]
            if type(weight) not in (Tensor, nn.Parameter):  # sharded: it is not there any more when they are read
                results[item.position] = functional.linear(hidden, weight, bias)
                continue
            logits = _Defer.apply(hidden, weight, bias, item.dtype)
            others = [*inputs, *(result for index, result in enumerate(results) if index != item.position)]
            if any(isinstance(other, Tensor) and _share_memory(other, hidden) for other in others):
                logits = logits.clone()  # whoever has the other may write to it
            results[item.position] = logits
        return tuple(results)

    return call if deferred else compiled


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if isinstance(a, DeferredLogits) or a.device != b.device:
        return False
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _written_behind(result: fx.Node) -> bool:
    """Whether a node behind the result writes to one of its arguments."""
    nodes = list(result.graph.nodes)
    return any(map(_is_write, nodes[nodes.index(result) + 1 :]))


def _is_write(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_in_place = (name.endswith("_") and not name.endswith("__")) or name in ("setitem", "__setitem__", "delitem")
    return node.op.startswith("call") and (is_in_place or name in _IN_PLACE_OPERATORS or "out" in node.kwargs)


_IN_PLACE_OPERATORS = frozenset(
    [
        "iadd",
        "isub",
        "imul",
        "itruediv",
        "ifloordiv",
        "imod",
        "ipow",
        "imatmul",
        "iand",
        "ior",
        "ixor",
        "ilshift",
        "irshift",
    ]
)


def _elements(node: Any) -> int:
    """The number of a value's elements; 0 if it is no tensor of two dimensions or more."""
    value = node.meta.get("example_value")
    return numel(value) if isinstance(value, Tensor) and value.ndim > 1 else 0


def _is_loss(node: fx.Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad


def _is_large(result: fx.Node, hidden: Any) -> bool:
    elements, source = _elements(result), _elements(hidden)
    return source > 0 and is_worth_chunks(elements, source, varies(result.meta["example_value"]))


def _depends(node: fx.Node, source: fx.Node) -> bool:
    stack, visited = [node], set[fx.Node]()
    while stack:
        other = stack.pop()
        if other is source:
            return True
        if other not in visited:
            visited.add(other)
            stack.extend(other.all_input_nodes)
    return False
