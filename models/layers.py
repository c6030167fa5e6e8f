"""Pieces that every convolutional reference network is made of."""

from __future__ import annotations

from torch import nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Bias-free convolution, padded so that stride 1 keeps the image size: (N, inputs, H, W) -> (N, outputs, H, W)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def norm_relu(width: int) -> nn.Sequential:
    """Batch norm, then ReLU in place on its output: (N, width, H, W) -> (N, width, H, W)."""
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def classifier(width: int, num_classes: int) -> nn.Sequential:
    """Global average pool and linear layer: (N, width, H, W) -> (N, num_classes), for any H and W."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def initialize(model: nn.Module) -> None:
    """Kaiming-normal convolutions over fan-out (He et al. 2015, arXiv:1502.01852, section 2.2), identity batch norms.

    Linear layers keep PyTorch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
