"""Every mask that the backward uses is the forward's, bit for bit: on the patterns and on the reference networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from models.densenet import densenet121
from models.preact_resnet import preact_resnet164
from models.resnet import resnet18_cifar, resnet50
from models.vgg import vgg16_bn
from tests.support.capture import capture
from tests.support.nets import PATTERNS, SMOOTH

NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "resnet18_cifar": lambda: resnet18_cifar(batch=2),
    "resnet50": lambda: resnet50(batch=1),
    "preact_resnet164": lambda: preact_resnet164(batch=2),
    "densenet121": lambda: densenet121(batch=2),
    "vgg16_bn": lambda: vgg16_bn(batch=2),
}


def check(model: nn.Module, inputs: tuple[Any, ...], at_least: int, **options: Any) -> None:
    seen = capture(model, *inputs, **options)
    assert seen.done is not None
    before, (_, backward) = seen.run_joint(), seen.calls
    masks = 0
    for copy, value in seen.done.copies.items():
        own = before[value.name]
        if copy.name in backward and isinstance(own, torch.Tensor) and own.dtype == torch.bool:
            assert torch.equal(backward[copy.name], own), f"{value.name} differs from its copy {copy.name}"
            assert own.any() or own.numel() < 1000 or "gt" in value.name
            masks += 1
    assert masks >= at_least


@pytest.mark.cpp
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", [name for name in PATTERNS if name not in (*SMOOTH, "dropout")])
def test_patterns(name: str, bits: int) -> None:
    model, inputs = PATTERNS[name]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1, 1)
                module.weight[0] = 0.0
                module.weight[1] = 1e-6
                module.bias.normal_(0, 2)
    check(model, inputs, at_least=1, bits=bits, min_bytes=256)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks(name: str) -> None:
    model, inputs = NETWORKS[name]()
    check(model, inputs, at_least=12, bits=4)


def test_a_wrong_mask_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from approx_fx.encode.channel import Channel

    honest = Channel.decode_mask

    def negated(self: Channel, build: Any, stored: Any, value: Any) -> Any:
        return build.call(torch.ops.aten.logical_not.default, honest(self, build, stored, value))

    monkeypatch.setattr(Channel, "decode_mask", negated)
    model, inputs = PATTERNS["conv_bn_relu"]()
    with pytest.raises(AssertionError, match="differs from its copy"):
        check(model, inputs, at_least=1, bits=4)
