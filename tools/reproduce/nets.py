"""Small nets for the digits (8x8), and the main net under other methods that save memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.densenet import DenseNet
from models.factory import Loss, seeded
from models.layers import classifier, conv, initialize
from models.preact_resnet import PreActResNet, basic, preact_basic20_net
from models.vgg import VGG
from tools.reproduce.schemes.actnn import convert_to_actnn
from tools.reproduce.schemes.banner import convert_to_8_bits
from tools.reproduce.schemes.reversible import revnet32_net

Labelled = tuple[nn.Module, tuple[Tensor, ...], Loss]


def vgg_small_net(num_classes: int = 10, in_channels: int = 1) -> VGG:
    """Five 3x3 convolutions in three stages: (N, in_channels, H, W), H, W >= 8 -> (N, num_classes)."""
    return VGG([[16], [32, 32], [64, 64]], num_classes, in_channels)


def densenet_small_net(num_classes: int = 10, in_channels: int = 1) -> DenseNet:
    """Three dense blocks of four layers, growth 12: (N, in_channels, H, W), H, W >= 4 -> (N, num_classes)."""
    return DenseNet([4, 4, 4], 12, num_classes, in_channels)


def smooth_net(activation: Callable[[], nn.Module], num_classes: int, in_channels: int) -> nn.Sequential:
    """Four 3x3 convolutions, each with batch norm and a smooth activation: (N, in_channels, H, W) -> logits."""
    net, inputs = nn.Sequential(), in_channels
    for width, stride in ((16, 1), (32, 2), (32, 1), (64, 2)):
        net.extend([conv(inputs, width, 3, stride), nn.BatchNorm2d(width), activation()])
        inputs = width
    net.append(classifier(inputs, num_classes))
    initialize(net)
    return net


def sigmoid_net(num_classes: int = 10, in_channels: int = 1) -> nn.Sequential:
    """`smooth_net` of sigmoids."""
    return smooth_net(nn.Sigmoid, num_classes, in_channels)


def tanh_net(num_classes: int = 10, in_channels: int = 1) -> nn.Sequential:
    """`smooth_net` of hyperbolic tangents."""
    return smooth_net(nn.Tanh, num_classes, in_channels)


def preact_basic(depth: int, num_classes: int, in_channels: int) -> PreActResNet:
    """Pre-activation ResNet of 3x3 pairs, depth 6n + 2: (N, in_channels, H, W) -> (N, num_classes)."""
    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}")
    return PreActResNet(basic, blocks, (16, 32, 64), num_classes, in_channels)


def main(batch: int = 64) -> Labelled:
    """The main net on noise, with labels: (batch, 3, 32, 32) -> (batch, 10)."""
    return _labelled(preact_basic20_net, batch)


def actnn(batch: int = 64) -> Labelled:
    """`main` under ActNN's scheme."""
    model, inputs, loss = main(batch)
    return convert_to_actnn(model), inputs, loss


def banner(batch: int = 64) -> Labelled:
    """`main` under Banner et al.'s 8 bits."""
    model, inputs, loss = main(batch)
    return convert_to_8_bits(model), inputs, loss


def revnet(batch: int = 64) -> Labelled:
    """The reversible net with as many parameters as `main`, on the same noise."""
    return _labelled(revnet32_net, batch)


def offload(batch: int = 64) -> Labelled:
    """`main` with its saved tensors moved to the host's memory."""
    model, inputs, loss = main(batch)
    forward = model.forward

    def offloaded(x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            out: Tensor = forward(x)
            return out

    model.forward = offloaded  # type: ignore[method-assign]
    return model, inputs, loss


def _labelled(build: Callable[[], nn.Module], batch: int) -> Labelled:
    model, inputs = seeded(build, (batch, 3, 32, 32))
    labels = torch.randint(10, (batch,), generator=torch.Generator().manual_seed(1))
    return model, inputs, lambda logits: nn.functional.cross_entropy(logits, labels.to(logits.device))
