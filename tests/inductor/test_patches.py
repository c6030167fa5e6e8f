"""The table of patches: few, each known to fit, each off where it does not, and without any the same results."""

from __future__ import annotations

import copy
import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.inductor import patches, post_grad
from approx_fx.inductor.patches import PATCHES, Patch
from approx_fx.inductor.switches import VARIABLE, disabled
from models.vit import ViT
from tests.support.nets import Residual, images

ROOT = Path(patches.__file__).parent
TARGET = "torch._inductor.memory:get_freeable_input_buf"


def row(*sources: tuple[str, ...]) -> Patch:
    return Patch("added", ((TARGET, lambda original: lambda *_: "ours"),), "", "", (), sources)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*rows: Patch) -> None:
        monkeypatch.setattr(patches, "PATCHES", rows)

    return use


def test_they_are_few() -> None:
    assert len(PATCHES) <= 8 and len({patch.name for patch in PATCHES}) == len(PATCHES)
    files = ["patches.py", *(f"{patch.targets[0][1].__module__.rsplit('.', 1)[1]}.py" for patch in PATCHES)]
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= 600


def test_each_says_what_it_buys() -> None:
    for patch in PATCHES:
        assert patch.why and "%" in patch.measured and "tools/bench.py patches" in patch.measured, patch.name


def test_each_fits_the_torch_that_it_was_tested_with() -> None:
    """A canary: where torch changes what is replaced, the row is looked at again, and given the new hash."""
    version = torch.__version__.split("+")[0]
    for patch in PATCHES:
        found = tuple(patches.source_hash(target) for target, _ in patch.targets)
        assert (found in patch.sources) == (version in patch.torch), f"{patch.name} on torch {version}: {found}"


def test_another_source_switches_it_off(only: Any) -> None:
    from torch._inductor import memory

    theirs = memory.get_freeable_input_buf
    only(row(("0" * 12,)))
    assert patches.names_in_use(None) == []
    with patches.applied(None):
        assert memory.get_freeable_input_buf is theirs


def test_a_function_that_is_gone_switches_it_off(only: Any) -> None:
    gone = ("torch._inductor.memory:no_such_function", lambda original: original)
    only(dataclasses.replace(row(("",)), targets=(gone,)))
    assert patches.source_hash(gone[0]) == ""
    assert patches.names_in_use(None) == []


def test_it_acts_in_its_thread_alone_and_is_put_back(only: Any) -> None:
    from torch._inductor import memory

    theirs = memory.get_freeable_input_buf
    only(row((patches.source_hash(TARGET),)))
    seen: list[Any] = []
    with pytest.raises(KeyError), patches.applied(None):
        assert memory.get_freeable_input_buf([], set()) == "ours"
        thread = threading.Thread(target=lambda: seen.append(memory.get_freeable_input_buf([], set())))
        thread.start()
        thread.join()
        raise KeyError
    assert seen == [theirs([], set())] and seen != ["ours"]
    assert memory.get_freeable_input_buf is theirs


def test_names_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [patch.name for patch in PATCHES if patches.fits(patch)]
    assert patches.names_in_use(None) == known and patches.names_in_use([]) == []
    for name in known:
        assert patches.names_in_use([name]) == [name]
        monkeypatch.setenv(VARIABLE, f"something, {name}")
        assert name not in patches.names_in_use(None) and disabled() == {"something", name}


def test_what_is_switched_off_changes_the_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = post_grad.PostGradPasses(None, "forward")
    before = passes.uuid()
    monkeypatch.setenv(VARIABLE, "materialize")
    assert passes.uuid() != before


ALL = ",".join([patch.name for patch in PATCHES] + [each.name for each in post_grad.PASSES] + ["peak_aware_fusion"])


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: (Residual(), images()), lambda: (ViT(1, 64, 4, 4, 32, 10, 3), None)])
def test_results_are_the_same_without(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output bit for bit, and gradients as far as sums in another order allow."""
    torch.manual_seed(0)
    model, x = build()
    x = torch.randn(8, 3, 32, 32) if x is None else x
    outputs, gradients = [], []
    for off in ("", ALL):
        monkeypatch.setenv(VARIABLE, off)
        torch._dynamo.reset()
        with torch._inductor.config.patch(force_disable_caches=True):
            double = approx_fx.convert(copy.deepcopy(model), bits=4, min_bytes=0)
            outputs.append(double(x))
            outputs[-1].square().mean().backward()
        gradients.append(flat_gradients(double))
    assert torch.equal(*outputs)
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()
