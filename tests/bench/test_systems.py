"""The systems approx_fx is compared with: each trains, with eager PyTorch's gradients; blocks found in any model."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from approx_fx.bench.baselines import SYSTEMS, apply, config_of, pick
from approx_fx.bench.checkpoint import blocks, checkpoint_blocks, segments
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.target import load
from approx_fx.config import Config
from approx_fx.errors import ApproxFxError
from tools.lib.torchvision_import import import_torchvision


class Piece(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(32, 128), nn.Linear(128, 32)
        self.norm, self.dropout = nn.BatchNorm1d(32), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.two(torch.relu(self.one(self.norm(x)))))


def net(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), Piece(dropout), Piece(dropout), nn.Linear(32, 4))


def gradients(call: object, model: nn.Module) -> Tensor:
    model.zero_grad()
    torch.manual_seed(1)
    call(torch.randn(512, 8, generator=torch.Generator().manual_seed(2))).square().sum().backward()  # type: ignore[operator]
    return flat_gradients(model)


FOR_TRANSFORMERS = {"checkpoint-hf", "linear_cross_entropy"}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.cpp
@pytest.mark.parametrize("name", [*sorted(set(SYSTEMS) - FOR_TRANSFORMERS), "approx_fx@8"])
def test_each_system_trains(name: str) -> None:
    model = net()
    exact = gradients(model, model)
    ours = net()
    keys = list(ours.state_dict())
    found = gradients(apply(name, ours, Config(bits=4, compiler="eager")), ours)
    assert list(ours.state_dict()) == keys
    error = float((found - exact).norm() / exact.norm())
    if name.startswith("approx_fx"):
        assert error < (0.02 if name.endswith("8") else 0.2)
    elif name == "fp8":
        assert 0 < error < 0.1
    else:
        assert error < 1e-5
    for key, value in model.state_dict().items():
        assert torch.allclose(value, ours.state_dict()[key], atol=1e-5), key


@pytest.mark.cpp
@pytest.mark.parametrize("name", [*sorted(FOR_TRANSFORMERS), "chunked", "approx_fx+checkpoint"])
def test_systems_with_a_loss_inside(name: str) -> None:
    """Of a language model of transformers with labels, the loss is compiled with the model; gradients are eager's."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install approx_fx[zoo]")
    import_torchvision()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    exact = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=4096, use_cache=False, **sizes))
    ours, tokens = copy.deepcopy(exact), torch.randint(4096, (8, 64))
    right = exact(input_ids=tokens, labels=tokens).loss
    trained = apply(name, ours, Config(bits=4, compiler="eager"), lambda output: output.loss)
    loss = trained(input_ids=tokens, labels=tokens)
    assert float((loss - right).abs()) < 1e-5 * float(right)
    right.backward()
    loss.backward()
    gradient, expected = flat_gradients(ours), flat_gradients(exact)
    assert float((gradient - expected).norm() / expected.norm()) < (0.2 if "approx_fx" in name else 1e-4)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("checkpoint-hf", "Allowed for any model: checkpoint."), ("linear_cross_entropy", "Linear has no linear head")],
)
def test_a_system_for_models_of_transformers(name: str, sentence: str) -> None:
    with pytest.raises(ApproxFxError, match=sentence):
        apply(name, nn.Linear(2, 2), Config())


def test_checkpointed_dropout_is_drawn_again_as_it_was() -> None:
    model, ours = net(0.5), net(0.5)
    assert torch.equal(gradients(model, model), gradients(checkpoint_blocks(ours), ours))
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_a_row_of_layers_is_checkpointed_in_segments() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.SiLU(inplace=True), nn.Linear(16, 4)]
    model = nn.Sequential(*layers)
    assert [len(part) for part in segments(model)] == [4, 1]
    ours = copy.deepcopy(model)
    assert torch.equal(gradients(model, model), gradients(checkpoint_blocks(ours), ours))
    assert list(ours.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("target", "count", "first"),
    [
        ("resnet:resnet18_cifar", 8, "Residual"),
        ("resnet:resnet50", 16, "Residual"),
        ("preact_resnet:preact_resnet20", 6, "PreActBlock"),
        ("densenet:densenet121", 58, "DenseLayer"),
        ("gpt:gpt_tiny", 4, "Block"),
        ("vit:vit_small", 12, "Block"),
        ("llama:llama_tiny", 4, "Block"),
        ("unet:unet_small", 7, "Double"),
        ("vgg:vgg16_bn", 0, ""),
        ("mlp:mlp", 0, ""),
    ],
)
def test_blocks_of_the_reference_models(target: str, count: int, first: str) -> None:
    found = blocks(load(f"models.{target}", 1).model)
    assert len(found) == count
    assert {type(block).__name__ for block in found.values()} == ({first} if first else set())


def test_names_are_checked() -> None:
    with pytest.raises(
        ApproxFxError, match=r"--against 'budgt' is not known\. Did you mean 'budget'\? Allowed: approx"
    ):
        pick("budgt")
    with pytest.raises(ApproxFxError, match=r"only approx_fx takes a width, as in 'approx_fx@8'"):
        pick("compile@8")
    with pytest.raises(ApproxFxError, match=r"behind the @ stands a width from 1 to 8, or exact"):
        config_of("approx_fx@9", Config())
    assert config_of("approx_fx@exact", Config()).bits is None
    assert config_of("approx_fx@2", Config(grid="blpa")) == Config(bits=2, grid="blpa")
