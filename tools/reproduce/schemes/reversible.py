"""RevNet: Gomez et al. 2017, "The Reversible Residual Network", arXiv:1707.04585, on the pre-activation ResNet.

    y1 = x1 + F(x2),  y2 = x2 + G(y1)        and back:  x2 = y2 - G(y1),  x1 = y1 - F(x2)

x1, x2 are the two halves of the channels. A stage saves only its output; its backward computes each block's input by
the equations on the right and recomputes F and G. An ordinary block is used where the width changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import classifier, conv, initialize, norm_relu
from models.preact_resnet import PreActBlock, basic


def half(width: int) -> nn.Sequential:
    """F or G: a pre-activation and its pair of 3x3 convolutions on one half of `width` channels."""
    return nn.Sequential(norm_relu(width // 2), *basic(width // 2, width // 2, 1))


class ReversibleStage(nn.Module):
    """`blocks` reversible blocks in sequence: [N, width, H, W] -> the same shape; only the output is saved."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(half(width) for _ in range(blocks))
        self.second = nn.ModuleList(half(width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not torch.is_grad_enabled():
            return self.run(x)
        out: Tensor = _Reversed.apply(x, self, *self.parameters())
        return out

    def run(self, x: Tensor) -> Tensor:
        """Compute the blocks without saving or discarding anything specially."""
        first, second = x.chunk(2, dim=1)
        for f, g in zip(self.first, self.second, strict=True):
            first = first + f(second)
            second = second + g(first)
        return torch.cat([first, second], dim=1)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: ReversibleStage, *parameters: Tensor) -> Tensor:
        out = stage.run(x)
        ctx.stage = stage
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        stage: ReversibleStage = ctx.stage
        first, second = ctx.saved_tensors[0].chunk(2, dim=1)
        to_first, to_second = gradients[0].chunk(2, dim=1)
        parameter_gradients: dict[nn.Parameter, Tensor] = {}
        with _statistics_frozen(stage):
            for f, g in zip(reversed(stage.first), reversed(stage.second), strict=True):
                residual, passed = _recompute(g, first, to_second, parameter_gradients)
                second, to_first = second - residual, to_first + passed
                residual, passed = _recompute(f, second, to_first, parameter_gradients)
                first, to_second = first - residual, to_second + passed
        return (
            torch.cat([to_first, to_second], dim=1),
            None,
            *(parameter_gradients[parameter] for parameter in stage.parameters()),
        )


def _recompute(
    part: nn.Module, x: Tensor, gradient: Tensor, parameter_gradients: dict[nn.Parameter, Tensor]
) -> tuple[Tensor, Tensor]:
    """(part(x), dL/dx) for dL/dpart(x) = gradient; the parameters' gradients go to `parameter_gradients`."""
    parameters = list(part.parameters())
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = part(x)
        passed, *gradients = torch.autograd.grad(out, [x, *parameters], gradient)
    parameter_gradients.update(zip(parameters, gradients, strict=True))
    return out.detach(), passed


@contextlib.contextmanager
def _statistics_frozen(stage: nn.Module) -> Iterator[None]:
    """Keep the running statistics unchanged, because the first forward has updated them."""
    norms = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class RevNet(nn.Sequential):
    """The pre-activation ResNet of `blocks` blocks a stage, all but the first of each stage reversible."""

    def __init__(self, blocks: int, widths: tuple[int, int, int], num_classes: int, in_channels: int) -> None:
        super().__init__(conv(in_channels, 16, 3))
        inputs = 16
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            self.extend([PreActBlock(basic, inputs, width, stride), ReversibleStage(blocks - 1, width)])
            inputs = width
        self.extend([norm_relu(inputs), classifier(inputs, num_classes)])
        initialize(self)


def revnet164_net(num_classes: int = 10, in_channels: int = 3) -> RevNet:
    """As many layers as preact_resnet164, and nearly its parameters: (N, in_channels, H, W) -> (N, num_classes)."""
    return RevNet(14, (26, 50, 98), num_classes, in_channels)


def revnet32_net(num_classes: int = 10, in_channels: int = 3) -> RevNet:
    """As many parameters as preact_basic20, in 32 layers: (N, in_channels, H, W) -> (N, num_classes); 272,954."""
    return RevNet(3, (20, 40, 80), num_classes, in_channels)


def revnet20_net(num_classes: int = 10, in_channels: int = 3) -> RevNet:
    """As many parameters as preact_basic8, in 20 layers: (N, in_channels, H, W) -> (N, num_classes); 79,478."""
    return RevNet(2, (12, 26, 50), num_classes, in_channels)
