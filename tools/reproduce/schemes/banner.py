"""Banner et al. 2018, "Scalable Methods for 8-bit Training of Neural Networks", arXiv:1805.11046, in plain PyTorch.

Range BN   x^ = (x - mean) / (C(n) range(x - mean)),  range = max - min,  C(n) = 1 / sqrt(2 ln n), as the paper has it:
           the range of n draws of a Gaussian is about 2 sqrt(2 ln n) sigma, so x^ has a deviation of about 1/2.
8 bits     a convolution's weights, its input, batch norm's input, and the gradient that a convolution hands to the
           layer below, all rounded to 255 steps of a tensor's range; the gradient's rounding is stochastic.
bifurcated the weight gradient reads the layer's gradient as it is, not its 8-bit copy.

The tensors that the forward computes with are saved, one byte an element, and one bit an element for each ReLU's mask.
In this method the forward is not exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tools.reproduce.schemes.actnn import BitRelu

BITS = 8


def convert_to_8_bits(model: nn.Module) -> nn.Module:
    """Replace every batch norm by Range BN and quantize every convolution but the first, in place.

    The first convolution and the classifier stay as they are, as is usual for quantized nets.
    """
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, RangeNorm(child))
            elif isinstance(child, nn.Conv2d) and child is not first:
                setattr(module, name, QuantizedConv(child))
            elif isinstance(child, nn.ReLU):
                setattr(module, name, BitRelu())
    return model


def quantize(x: Tensor, stochastic: bool = False) -> tuple[Tensor, Tensor]:
    """(codes uint8, [low, step] float32) over the range of the whole tensor; zero is one of the values.

    stochastic: rounded up or down at random, without bias; draws from torch's global generator.
    """
    low, high = torch.aminmax(x)
    low, high = low.clamp_max(0), high.clamp_min(0)
    step = ((high - low) / (2**BITS - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    low = torch.round(low / step) * step
    scaled = (x - low) / step
    codes = torch.floor(scaled + torch.rand_like(scaled)) if stochastic else torch.round(scaled)
    return codes.clamp(0, 2**BITS - 1).to(torch.uint8), torch.stack([low, step])


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """The values of `quantize`'s codes, float32."""
    return codes * scale[1] + scale[0]


class QuantizedConv(nn.Module):
    """A convolution without bias with 8-bit weights, input and input gradient."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        out: Tensor = _Conv.apply(x, self.conv.weight, self.conv.stride, self.conv.padding)
        return out


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        codes, scale = quantize(x)
        rounded = dequantize(*quantize(weight))
        ctx.save_for_backward(codes, scale, weight)
        ctx.stride, ctx.padding = stride, padding
        return nn.functional.conv2d(dequantize(codes, scale), rounded, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        codes, scale, weight = ctx.saved_tensors
        x, rounded = dequantize(codes, scale), dequantize(*quantize(weight))
        coarse = dequantize(*quantize(gradients[0], stochastic=True))
        arguments = (None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1)
        backward = torch.ops.aten.convolution_backward
        to_input, _, _ = backward(coarse, x, rounded, *arguments, [True, False, False])
        _, to_weight, _ = backward(gradients[0], x, rounded, *arguments, [False, True, False])
        return to_input, to_weight, None, None


class RangeNorm(nn.Module):
    """Batch norm scaled by the range: [N, C, H, W] -> the same shape. Its running variance is the squared scale."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
        if not self.training:
            x = dequantize(*quantize(x))
            return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=0.0)
        out, mean, scale = _Range.apply(x, norm.weight, norm.bias, norm.eps)
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(scale.square(), norm.momentum)
        normalised: Tensor = out
        return normalised


class _Range(torch.autograd.Function):
    """Range BN and its derivative; that of the range flows to the largest and smallest value of a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        codes, range_of_all = quantize(x)
        rows = dequantize(codes, range_of_all).transpose(0, 1).flatten(1)
        correction = 1 / math.sqrt(2 * math.log(rows.shape[1]))
        mean, (high, top), (low, bottom) = rows.mean(1), rows.max(1), rows.min(1)
        scale = correction * (high - low) + eps
        ctx.save_for_backward(codes, range_of_all, mean, scale, top, bottom, weight)
        ctx.correction = correction
        ctx.mark_non_differentiable(mean, scale)
        normalised = (dequantize(codes, range_of_all) - mean.view(shape)) / scale.view(shape)
        return normalised * weight.view(shape) + bias.view(shape), mean, scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        codes, range_of_all, mean, scale, top, bottom, weight = ctx.saved_tensors
        batch, channels, *image = codes.shape
        rows = dequantize(codes, range_of_all).transpose(0, 1).flatten(1)
        g = gradients[0].transpose(0, 1).flatten(1)
        normalised = (rows - mean[:, None]) / scale[:, None]
        weight_gradient, bias_gradient = (g * normalised).sum(1), g.sum(1)
        inner = (g - g.mean(1, keepdim=True)) * (weight / scale)[:, None]
        to_scale = -weight * weight_gradient / scale * ctx.correction
        inner.scatter_add_(1, top[:, None], to_scale[:, None])
        inner.scatter_add_(1, bottom[:, None], -to_scale[:, None])
        to_input = inner.view(channels, batch, *image).transpose(0, 1)
        return to_input, weight_gradient, bias_gradient, None
