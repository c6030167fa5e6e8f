"""transformers' gradient checkpointing under the pass: right gradients, in less memory than with either alone."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.bench.live_bytes import measure
from tools.lib.torchvision_import import import_torchvision

pytestmark = pytest.mark.zoo

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install approx_fx[zoo]")

WORDS, LENGTH, WIDTH = 256, 128, 128


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> None:
    import_torchvision()


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=WORDS, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def qwen3() -> nn.Module:
    config = transformers.Qwen3Config(
        hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, vocab_size=WORDS, use_cache=False,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=3, n_head=4, vocab_size=WORDS, n_positions=LENGTH, use_cache=False, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=WIDTH, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, vocab_size=WORDS,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=WIDTH, d_kv=32, d_ff=512, num_layers=2, num_decoder_layers=2, num_heads=4, vocab_size=WORDS,
        dropout_rate=0.0, use_cache=False, decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


@functools.cache
def trained(
    make: Callable[[], nn.Module],
    bits: int | None,
    inputs: str = "exact",
    as_backend: bool = False,
    **checkpointing: Any,
) -> tuple[Tensor, int]:
    """The gradient, and the bytes alive between forward and backward.

    inputs: the option `checkpoint_inputs`. as_backend: by torch.compile, not by `convert`. checkpointing: none, or how.
    """
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = make().train()
    words = torch.randint(1, WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    options = {"bits": bits, "compiler": "eager", "min_bytes": 256, "strict": True, "checkpoint_inputs": inputs}
    compiled = torch.compile(model, backend="approx_fx", options=options) if as_backend else model
    if not as_backend:
        approx_fx.convert(model, **options)

    def loss() -> Tensor:
        return compiled(input_ids=words, labels=words).loss

    loss().backward()
    gradient = flat_gradients(model)
    model.zero_grad(set_to_none=True)
    gc.collect()
    return gradient, measure(loss).held


@pytest.mark.parametrize("make", [llama, qwen3, gpt2, bert, t5])
def test_both_together_hold_less_than_either(make: Callable[[], nn.Module]) -> None:
    exact, _ = trained(make, None)
    _, checkpointed = trained(make, None, use_reentrant=False)
    _, coded = trained(make, 4)
    for reentrant in (False, True):
        gradient, held = trained(make, 4, use_reentrant=reentrant)
        assert float(gradient @ exact / (gradient.norm() * exact.norm())) >= 0.98
        assert held <= min(checkpointed, coded)


@pytest.mark.parametrize("as_backend", [False, True])
@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_inputs_of_regions_in_few_bits(make: Callable[[], nn.Module], as_backend: bool) -> None:
    """Two of three exact values of 256 KiB are left out; what lies outside of the regions stays."""
    exact, _ = trained(make, None)
    _, held_exactly = trained(make, 4, "exact", as_backend, use_reentrant=False)
    for reentrant in (False,) if as_backend else (False, True):
        gradient, held = trained(make, 4, "coded", as_backend, use_reentrant=reentrant)
        assert float(gradient @ exact / (gradient.norm() * exact.norm())) >= 0.98
        assert held <= held_exactly - 0.55 * 3 * 4 * LENGTH * WIDTH * 4
