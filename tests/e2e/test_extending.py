"""docs/extending.md: its recipes do what they say, in as many files as they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.compare import flat_gradients
from approx_fx.encode import base, choose, fixed_range, group
from approx_fx.joint import fake_values, graph, op_table
from approx_fx.plan import widths

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


def blocks(name: str) -> list[tuple[str, str]]:
    """(file, code) of the Python blocks that begin with `# recipe: name`."""
    found = re.findall(rf"```python\n# recipe: {name}\n# (\S+), [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found


@pytest.fixture
def registries() -> Iterator[None]:
    """Puts the tables that recipes add to back as they were."""
    tables: tuple[Any, ...] = (op_table.TABLE, choose.ENCODINGS, widths.POLICIES)
    before = [table.copy() for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old) if isinstance(table, dict) else table.extend(old)


def follow(name: str, files: int) -> None:
    """Run a recipe's blocks, as if they were added to their files."""
    recipe = blocks(name)
    assert len({file for file, _ in recipe}) == files
    names: dict[str, Any] = {"__name__": "recipe"}
    for module in (fake_values, graph, op_table, base, fixed_range, group, choose, widths):
        names.update(vars(module))
    exec("from dataclasses import dataclass, replace\nfrom typing import ClassVar\nimport torch", names)
    for _, code in recipe:
        exec(code, names)


class Ends(nn.Module):
    """A product, a function of it and a mean: what the function gives is itself not read by the backward."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(64, 64), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x)).mean(0)


class Arcs(nn.Module):
    """Two products with arc tangents of the first one's result between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.atan(self.first(x)))


def trained(model: nn.Module) -> tuple[approx_fx.Report, Tensor, Tensor]:
    """The report, the gradient and the exact gradient."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(64, 64)
    model(x).square().mean().backward()
    exact = flat_gradients(model)
    model.zero_grad()
    torch._dynamo.reset()
    approx_fx.convert(model, bits=4, min_bytes=0, compiler="eager", strict=True, check=None)
    model(x).square().mean().backward()
    return approx_fx.report(model), flat_gradients(model), exact


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


@pytest.mark.usefixtures("registries")
def test_a_row_lets_an_op_be_computed_again() -> None:
    """Before, the product that the slope is made of and the arc tangent are both kept; after, the product alone."""
    before, _, _ = trained(Arcs())
    assert "atan" in [row.op for row in before.tensors]
    follow("recompute", files=1)
    after, gradient, exact = trained(Arcs())
    assert "atan" not in [row.op for row in after.tensors] and len(after.tensors) < len(before.tensors)
    assert cosine(gradient, exact) > 0.98


@pytest.mark.usefixtures("registries")
def test_a_derivative_is_kept_in_two_bits() -> None:
    before, _, _ = trained(Ends(nn.GELU()))
    follow("slope", files=2)
    after, gradient, exact = trained(Ends(nn.GELU()))
    assert [(row.quantizer, row.bits) for row in after.tensors] == [("slope", 2)]
    assert after.saved_after < 0.6 * before.saved_after
    assert cosine(gradient, exact) > 0.9


@pytest.mark.usefixtures("registries")
def test_an_anchor_is_kept_on_the_host() -> None:
    _, coded, _ = trained(Arcs())
    follow("offload", files=2)
    report, gradient, _ = trained(Arcs())
    assert "host" in {row.quantizer for row in report.tensors}
    assert torch.equal(gradient, coded)


@pytest.mark.usefixtures("registries")
def test_a_solver_chooses_widths() -> None:
    before, _, _ = trained(Arcs())
    follow("widths", files=2)
    after, gradient, exact = trained(Arcs())
    assert {row.bits for row in before.tensors} == {4} and 3 in {row.bits for row in after.tensors}
    assert after.saved_after < before.saved_after and cosine(gradient, exact) > 0.95
