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
from torch import Tensor, fx
from torch.nn import functional

from ..errors import ApproxFxError
from .region import LEAST_ELEMENTS, LEAST_GROWTH

# How many elements of the weight are compared, to see whether an optimizer has changed it.
PROBED = 16


class DeferredLogits(Tensor):
    """F.linear(hidden, weight, bias), computed when it is first read.

    Sizes, dtype and device are known at once. Reading it after the weight has changed raises ApproxFxError.
    """

    hidden: Tensor
    parameters: tuple[Tensor, Tensor | None]
    versions: list[int]
    probe: Tensor
    result: Tensor | None

    @staticmethod
    def __new__(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> DeferredLogits:
        """Defer F.linear(hidden, weight, bias)."""
        shape = (*hidden.shape[:-1], weight.shape[0])
        self = Tensor._make_wrapper_subclass(cls, shape, dtype=hidden.dtype, device=hidden.device)
        self.hidden, self.parameters, self.result = hidden, (weight, bias), None
        self.versions, self.probe = [weight._version], _probe(weight)
        return self

    def materialize(self) -> Tensor:
        """The logits. Raises ApproxFxError if the weight has changed since."""
        if self.result is None:
            weight, bias = self.parameters
            if self.versions != [weight._version] or not torch.equal(self.probe, _probe(weight)):
                raise ApproxFxError(
                    "the logits of this training step were not kept, and the weight that they are computed from has "
                    "changed since: read them before optimizer.step(), or convert with chunk_loss=False."
                )
            with torch.autocast(self.hidden.device.type, enabled=False):
                self.result = functional.linear(
                    self.hidden,
                    weight.to(self.hidden.dtype),
                    None if bias is None else bias.to(self.hidden.dtype),
                )
        return self.result

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function with the logits, or, if it only asks for what is known, without."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _KNOWN:
                return func(*args, **kwargs)
            return func(*_materialized(args), **_materialized(kwargs))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Call an op with the logits: torch's own code has come upon them."""
        return func(*_materialized(args), **_materialized(kwargs or {}))


# What is known of the logits before they are computed.
_KNOWN = frozenset(
    [
        *(
            getattr(Tensor, name).__get__
            for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_cpu")
        ),
        *(getattr(Tensor, name).__get__ for name in ("requires_grad", "is_leaf", "grad_fn", "is_meta")),
        *(getattr(Tensor, name) for name in ("size", "dim", "numel", "nelement", "element_size", "is_floating_point")),
        *(getattr(Tensor, name) for name in ("is_complex", "is_contiguous", "stride", "__len__")),
    ]
)


def _materialized(item: Any) -> Any:
    return torch.utils._pytree.tree_map_only(DeferredLogits, DeferredLogits.materialize, item)


def _probe(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    return flat[:: max(flat.numel() // PROBED, 1)].clone()


@dataclass(frozen=True)
class Deferred:
    """An output that is replaced by its hidden states. position: of the output; weight, bias: among the inputs."""

    position: int
    weight: int
    bias: int | None


def defer_logits(module: fx.GraphModule) -> list[Deferred]:
    """Return the hidden states in the place of logits, where a graph that Dynamo traced returns a loss of them, too.

    The module is changed in place.
    """
    output = next(iter(module.graph.find_nodes(op="output")))
    results: list[Any] = list(output.args[0]) if isinstance(output.args[0], (list, tuple)) else []
    inputs = {node: index for index, node in enumerate(module.graph.find_nodes(op="placeholder"))}
    losses = [result for result in results if isinstance(result, fx.Node) and _shape(result) == ()]
    deferred = []
    for position, result in enumerate(results):
        if not isinstance(result, fx.Node) or result.target is not torch._C._nn.linear:
            continue
        hidden, weight, bias = (*result.args, *result.kwargs.values(), None)[:3]
        known = weight in inputs and (bias is None or bias in inputs)
        if not known or not _is_large(result, hidden) or not any(_depends(loss, result) for loss in losses):
            continue
        results[position] = hidden
        deferred.append(Deferred(position, inputs[weight], None if bias is None else inputs[bias]))  # type: ignore[index]
    if deferred:
        output.args = (tuple(results),)
        module.recompile()
    return deferred


def with_deferred(compiled: Callable[..., Any], deferred: Sequence[Deferred]) -> Callable[..., Any]:
    """A compiled module that returns `DeferredLogits` where it was changed to return hidden states."""

    def call(*inputs: Any) -> Any:
        results = list(compiled(*inputs))
        for item in deferred:
            bias = None if item.bias is None else inputs[item.bias]
            results[item.position] = DeferredLogits(results[item.position], inputs[item.weight], bias)
        return tuple(results)

    return call if deferred else compiled


def _shape(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("example_value")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _is_large(result: fx.Node, hidden: Any) -> bool:
    shape, source = _shape(result), _shape(hidden)
    if not shape or not source or not all(isinstance(size, int) for size in (*shape, *source)):
        return False
    elements, before = torch.Size(shape).numel(), torch.Size(source).numel()
    return elements >= LEAST_ELEMENTS and elements >= LEAST_GROWTH * before


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
