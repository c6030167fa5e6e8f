"""Kernels run in the graph's order where that lowers the peak; a kernel never runs before what it needs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from approx_fx.bench.code_peak import code_peak
from approx_fx.inductor.graph_order import graph_order
from approx_fx.inductor.switches import VARIABLE
from tools.lib.torchvision_import import import_torchvision


def kernel(name: int, first: int, needs: set[int]) -> SimpleNamespace:
    """A scheduler's node that writes one buffer. first: the place in the graph of its first op."""
    dependencies = [SimpleNamespace(name=f"buf{need}") for need in needs]
    return SimpleNamespace(
        number=name, min_order=first, unmet_dependencies=dependencies, get_buffer_names=lambda: {f"buf{name}"}
    )


@given(st.lists(st.tuples(st.integers(0, 99), st.sets(st.integers(0, 19), max_size=4)), max_size=20))
def test_order(drawn: list[tuple[int, set[int]]]) -> None:
    """The order keeps all kernels, puts each behind what it needs, and otherwise the first of the graph first."""
    kernels = [kernel(n, first, {need for need in needs if need < n}) for n, (first, needs) in enumerate(drawn)]
    order = graph_order(kernels)
    assert sorted(node.number for node in order) == list(range(len(kernels)))
    done: set[str] = set()
    for place, node in enumerate(order):
        assert {need.name for need in node.unmet_dependencies} <= done
        ready = [n for n in order[place:] if {need.name for need in n.unmet_dependencies} <= done]
        assert node.min_order == min(n.min_order for n in ready)
        done |= node.get_buffer_names()


def test_the_peak_is_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    """In T5, each layer of the decoder reads the encoder's output behind its dropout."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install approx_fx[zoo]")
    import_torchvision()
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_layers": 3, "num_heads": 4}
    config = transformers.T5Config(vocab_size=512, use_cache=False, decoder_start_token_id=0, pad_token_id=0, **sizes)
    model, tokens = transformers.T5ForConditionalGeneration(config), torch.randint(512, (8, 128))
    peaks = []
    for off in ("", "graph_order"):
        monkeypatch.setenv(VARIABLE, off)
        torch._dynamo.reset()
        peaks.append(code_peak(model, input_ids=tokens, labels=tokens, options={"bits": 4})["after"])
    assert peaks[0] < 0.9 * peaks[1]
