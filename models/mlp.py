"""Multilayer perceptron: Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors"."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from models.factory import Example, seeded


class MLP(nn.Sequential):
    """Linear layers of the given `widths`, input first, with ReLU between them; images are flattened on entry."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__(nn.Flatten(), nn.Linear(widths[0], widths[1]))
        for inputs, outputs in pairwise(widths[1:]):
            self.extend([nn.ReLU(inplace=True), nn.Linear(inputs, outputs)])


def mlp_net(num_classes: int = 10, in_features: int = 784) -> MLP:
    """Three hidden layers of 512: (N, in_features) or an image of that size -> (N, num_classes).

    932,362 parameters by default. The layered form is Rumelhart et al. 1986, equations 1 and 2, with ReLU for the
    sigmoid.
    """
    return MLP([in_features, 512, 512, 512, num_classes])


def mlp(batch: int = 128) -> Example:
    """Seeded `mlp_net` (Rumelhart et al. 1986): (batch, 784) float32 -> logits (batch, 10); 932,362 parameters."""
    return seeded(mlp_net, (batch, 784))
