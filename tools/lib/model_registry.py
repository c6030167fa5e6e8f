"""Build the reference models by name, for the image shape of a data set."""

from __future__ import annotations

import importlib
import math

import torch
from torch import nn

from tools.lib.user_errors import UserError, pick

MODELS = {
    "mlp": "models.mlp:mlp_net",
    "resnet20": "models.resnet:resnet20_net",
    "resnet18_cifar": "models.resnet:resnet18_cifar_net",
    "resnet50": "models.resnet:resnet50_net",
    "preact_basic8": "models.preact_resnet:preact_basic8_net",
    "preact_basic20": "models.preact_resnet:preact_basic20_net",
    "preact_resnet164": "models.preact_resnet:preact_resnet164_net",
    "vgg16_bn": "models.vgg:vgg16_bn_net",
    "densenet121": "models.densenet:densenet121_net",
    "vgg_small": "tools.reproduce.nets:vgg_small_net",
    "densenet_small": "tools.reproduce.nets:densenet_small_net",
    "sigmoid_net": "tools.reproduce.nets:sigmoid_net",
    "tanh_net": "tools.reproduce.nets:tanh_net",
    "revnet20": "tools.reproduce.schemes.reversible:revnet20_net",
    "revnet164": "tools.reproduce.schemes.reversible:revnet164_net",
    "revnet32": "tools.reproduce.schemes.reversible:revnet32_net",
}


def build(name: str, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Build the model `name` with weights drawn from torch's global generator.

    Args:
        name: a key of MODELS.
        classes: the number of logits.
        image_shape: (channels, height, width) of the input.

    Raises:
        UserError: unknown name, or a model that cannot take images of this shape.
    """
    module, _, factory = MODELS[pick("model", name, MODELS)].partition(":")
    size = {"in_features": math.prod(image_shape)} if name == "mlp" else {"in_channels": image_shape[0]}
    model: nn.Module = getattr(importlib.import_module(module), factory)(num_classes=classes, **size)
    _try_shape(name, model, image_shape)
    return model


def _try_shape(name: str, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(torch.zeros(2, *image_shape))
    except (RuntimeError, ValueError) as error:
        shape = "x".join(map(str, image_shape))
        raise UserError(f"The model {name} cannot take images of {shape}: {error}.") from error
    model.train()
