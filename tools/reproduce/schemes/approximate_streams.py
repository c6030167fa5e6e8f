"""Use approximate activations in the forward, in the backward, in both or in neither, with everything else equal.

After each batch norm and ReLU a pre-activation net has two streams: the value that the next convolution reads, and the
value that its weight gradient and the batch norm's backward read. Each of them is exact or decoded from codes:

    forward  backward
    exact    exact     plain training
    exact    codes     approx_fx, and Chakrabarti & Moseley (NeurIPS 2019)
    codes    codes     naive: quantize what is computed with, then backpropagate through it
    codes    exact     the reverse, to show which of the two matters

The masks are those of the exact forward in all four cases, because the grids have an edge at the ReLU's threshold. The
codes are emulated in float32, which shows the effect of the error but saves no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from approx_fx.ops import channel
from models.preact_resnet import PreActResNet


@dataclass(frozen=True)
class Streams:
    """The bits and grid of the channel quantizer, and which of the streams are decoded from its codes."""

    bits: int
    forward: bool
    backward: bool
    grid: str = "gaussian"


class Pair(NamedTuple):
    """One activation in both streams, float32 [N, C, H, W]: `value` for the forward, `read` for the backward."""

    value: Tensor
    read: Tensor


def stream(model: nn.Module, streams: Streams) -> nn.Module:
    """Replace the norms and convolutions of a pre-activation ResNet in place; returns the model.

    Raises:
        TypeError: `model` is another network, in which a value may have readers that are not handled here.
    """
    if not isinstance(model, PreActResNet):
        raise TypeError(f"only a PreActResNet has its streams apart, not a {type(model).__name__}")
    last = [child for child in model if isinstance(child, nn.Sequential)][-2]  # in front of the classifier
    _replace(model, streams, last)
    return model


def read_back(h: Tensor, mean: Tensor, rstd: Tensor, norm: nn.BatchNorm2d, mask: Tensor, streams: Streams) -> Tensor:
    """Encode and decode `h`, float32 [N, C, H, W], as the ops of training do, but without packing the codes.

    mask: the ReLU's, bool, h's shape.
    """
    grid = channel.channel_grid.overload(mean, rstd, norm.weight, norm.bias, 0.0, streams.bits, streams.grid)
    low, step, level, inverse = grid.view(4, 1, -1, 1, 1)
    top = 2.0**streams.bits - 1
    codes = h.sub(low).mul_(inverse).floor_().clamp_(0, top)
    lowest = torch.where(mask, level, 0.0)
    highest = torch.where(mask, top, (level - 1).clamp_min(0))
    return torch.minimum(torch.maximum(codes, lowest), highest).mul_(step).add_(low + 0.5 * step)


def _replace(module: nn.Module, streams: Streams, last: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, PairedConv(child))
        elif isinstance(child, nn.Sequential) and [type(part) for part in child] == [nn.BatchNorm2d, nn.ReLU]:
            setattr(module, name, PairedNormRelu(child[0], streams, alone=child is last))
        else:
            _replace(child, streams, last)


class PairedNormRelu(nn.Module):
    """Batch norm and ReLU: [N, C, H, W] -> a Pair, or its value if `alone`. Evaluation computes as training does."""

    def __init__(self, norm: nn.Module, streams: Streams, alone: bool) -> None:
        super().__init__()
        assert isinstance(norm, nn.BatchNorm2d)
        self.norm, self.streams, self.alone = norm, streams, alone

    def forward(self, h: Tensor) -> Pair | Tensor:
        """See the class."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
        if self.training:
            with torch.no_grad():
                var, mean = torch.var_mean(h, (0, 2, 3), correction=0)
                count = h.numel() / h.shape[1]
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)
        else:
            var, mean = norm.running_var, norm.running_mean
        value, read = _NormRelu.apply(h, norm.weight, norm.bias, mean, torch.rsqrt(var + norm.eps), norm, self.streams)
        return value if self.alone else Pair(value, read)


class PairedConv(nn.Module):
    """A convolution of a Pair, or of a plain tensor, whose two streams are equal."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Pair | Tensor) -> Tensor:
        """[N, C, H, W] -> [N, outputs, H / stride, W / stride]."""
        value, read = x if isinstance(x, tuple) else (x, x.detach())
        out: Tensor = _Conv.apply(value, read, self.conv.weight, self.conv.stride, self.conv.padding)
        return out


class _NormRelu(torch.autograd.Function):
    """(h, gamma, beta, mean, rstd) -> the two streams of relu(gamma z + beta), z = (h - mean) rstd.

    dL/dh = gamma rstd (g - mean(g) - z~ mean(g z~)), dL/dgamma = sum(g z~), z~ the backward stream's value of z.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, norm: Any, streams: Streams
    ) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        gamma, beta = weight.view(shape), bias.view(shape)

        def normalise(x: Tensor) -> Tensor:
            return (x - mean.view(shape)) * rstd.view(shape)

        z = normalise(h)
        mask = z * gamma + beta > 0
        coded = normalise(read_back(h, mean, rstd, norm, mask, streams)) if streams.forward or streams.backward else z
        value, saved = (coded if streams.forward else z), (coded if streams.backward else z)
        ctx.save_for_backward(saved, mask, rstd, weight)
        # A bin's middle may be beyond a threshold clamped to the data's range; a ReLU's output is not.
        out, read = (torch.where(mask, (x * gamma + beta).clamp_min(0), 0.0) for x in (value, saved))
        ctx.mark_non_differentiable(read)
        return out, read

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, mask, rstd, weight = ctx.saved_tensors
        g = torch.where(mask, gradients[0], 0.0)
        over, shape = (0, 2, 3), (1, -1, 1, 1)
        count = g.numel() / g.shape[1]
        bias_gradient, weight_gradient = g.sum(over), (g * z).sum(over)
        inner = g - bias_gradient.view(shape) / count - z * (weight_gradient.view(shape) / count)
        return (weight * rstd).view(shape) * inner, weight_gradient, bias_gradient, None, None, None, None


class _Conv(torch.autograd.Function):
    """conv(value, W) without bias, whose weight gradient is computed from `read`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, read: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(read, weight)
        ctx.stride, ctx.padding, ctx.inner = stride, padding, value.requires_grad
        return nn.functional.conv2d(value, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        read, weight = ctx.saved_tensors
        to_input, to_weight, _ = torch.ops.aten.convolution_backward(
            gradients[0],
            read,
            weight,
            None,
            ctx.stride,
            ctx.padding,
            [1, 1],
            False,
            [0, 0],
            1,
            [ctx.inner, True, False],
        )
        return to_input, None, to_weight, None, None
