"""Factories used only by measurements: other depths, and channels-last models with labels for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.densenet import densenet121_net
from models.factory import Example, Loss, seeded
from models.preact_resnet import preact_resnet, preact_resnet164_net
from models.resnet import resnet50_net, resnet152_net
from models.vit import vit_small_net

Labelled = tuple[nn.Module, tuple[Tensor, ...], Loss]


def preact_resnet56(batch: int = 64) -> Example:
    """Depth 56: (batch, 3, 32, 32) float32 -> (batch, 10)."""
    return seeded(lambda: preact_resnet(56), (batch, 3, 32, 32))


def preact_resnet110(batch: int = 64) -> Example:
    """Depth 110: (batch, 3, 32, 32) float32 -> (batch, 10)."""
    return seeded(lambda: preact_resnet(110), (batch, 3, 32, 32))


def resnet50(batch: int = 128) -> Labelled:
    """ResNet-50, channels last, with labels: (batch, 3, 224, 224) -> (batch, 1000)."""
    return _labelled(seeded(resnet50_net, (batch, 3, 224, 224)), 1000)


def resnet152(batch: int = 64) -> Labelled:
    """ResNet-152, channels last, with labels: (batch, 3, 224, 224) -> (batch, 1000)."""
    return _labelled(seeded(resnet152_net, (batch, 3, 224, 224)), 1000)


def preact_resnet164(batch: int = 256) -> Labelled:
    """Pre-activation ResNet-164, channels last, with labels: (batch, 3, 32, 32) -> (batch, 10)."""
    return _labelled(seeded(preact_resnet164_net, (batch, 3, 32, 32)), 10)


def densenet121(batch: int = 256) -> Labelled:
    """DenseNet-121, channels last, with labels: (batch, 3, 32, 32) -> (batch, 10)."""
    return _labelled(seeded(densenet121_net, (batch, 3, 32, 32)), 10)


def vit_small(batch: int = 128) -> Labelled:
    """ViT-S/16 with labels: (batch, 3, 224, 224) -> (batch, 1000)."""
    return _labelled(seeded(vit_small_net, (batch, 3, 224, 224)), 1000)


def _labelled(example: Example, classes: int) -> Labelled:
    model, (images,) = example
    labels = torch.randint(classes, (len(images),), generator=torch.Generator().manual_seed(1))

    def loss(logits: Tensor) -> Tensor:
        nonlocal labels
        labels = labels.to(logits.device)
        return nn.functional.cross_entropy(logits.float(), labels)

    return model.to(memory_format=torch.channels_last), (images.to(memory_format=torch.channels_last),), loss  # type: ignore[call-overload]
