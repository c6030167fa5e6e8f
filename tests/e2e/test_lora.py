"""LoRA adapters by peft on a frozen language model: their gradients are right, and what is saved is small."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from tools.lib.torchvision_import import import_torchvision

pytestmark = pytest.mark.cpp

import_torchvision()
pytest.importorskip("peft", reason="peft is not installed: pip install approx_fx[zoo]")


def adapted(checkpointing: bool) -> nn.Module:
    """A small Llama with adapters at all its linear layers, B not zero, so that A has a gradient, too."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
    )
    if checkpointing:
        base.gradient_checkpointing_enable()
    lora: Any = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(base, lora).train()


def step(bits: int | None, checkpointing: bool) -> tuple[nn.Module, Tensor, float]:
    """The model after a step with labels, the gradient of its adapters, and the loss. bits: None is uncompiled."""
    torch._dynamo.reset()
    model = adapted(checkpointing)
    if bits is not None:
        approx_fx.convert(model, bits=bits, compiler="eager", strict=True)
    words = torch.randint(256, (8, 64), generator=torch.Generator().manual_seed(0))
    loss = model(input_ids=words, labels=words).loss
    loss.backward()
    adapters = [p for name, p in model.named_parameters() if "lora_" in name]
    assert len(adapters) == 2 * 7 * 2 and all(p.grad is not None and p.grad.any() for p in adapters)
    return model, torch.cat([p.grad.flatten() for p in adapters]), loss.item()


def test_adapters() -> None:
    _, exact, exact_loss = step(None, checkpointing=False)
    model, gradient, loss = step(4, checkpointing=False)
    assert loss == pytest.approx(exact_loss, rel=1e-6)
    assert float(gradient @ exact / (gradient.norm() * exact.norm())) >= 0.99
    assert all(p.grad is None for name, p in model.named_parameters() if "lora_" not in name)
    report = approx_fx.report(model)
    assert len(report.graphs) == 1 and not report.graphs[0].failed
    assert report.ratio >= 9


def test_adapters_under_gradient_checkpointing() -> None:
    """peft calls requires_grad_ on the embedding's output, where Dynamo breaks the graph in two."""
    _, exact, exact_loss = step(None, checkpointing=True)
    model, gradient, loss = step(4, checkpointing=True)
    assert loss == pytest.approx(exact_loss, rel=1e-6)
    assert float(gradient @ exact / (gradient.norm() * exact.norm())) >= 0.98
    assert all(p.grad is None for name, p in model.named_parameters() if "lora_" not in name)
    report = approx_fx.report(model)
    assert len(report.graphs) == 2 and not any(graph.failed for graph in report.graphs)
    assert report.ratio >= 1.5  # what enters a region is kept exactly
