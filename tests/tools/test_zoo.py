"""Other people's models: torchvision's families and transformers' architectures, from their own packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install approx_fx[zoo]")

from tools.lib.torchvision_import import import_torchvision
from tools.lib.zoo_models import ZOO
from tools.zoo import COSINE, RATIO, RESULTS, Line, measure, table

# Large ones, which tools/zoo.py runs too.
pytestmark = pytest.mark.zoo

SLOW = {f"torchvision/{name}" for name in ("densenet121", "efficientnet_v2_s", "inception_v3", "maxvit_t", "vit_b_16")}
# Deep nets of batch norm and smooth activations, whose slopes are read off four bits: their cosine is lower.
SMOOTH = {
    f"torchvision/{name}"
    for name in ("efficientnet_b0", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "mobilenet_v3_small")
}


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> None:
    import_torchvision()


@pytest.mark.parametrize("name", [name for name in ZOO if name not in SLOW])
def test_model(name: str) -> None:
    line = measure(name, thorough=False)
    assert line.reason == ""
    assert line.graphs >= 1 and line.coded > 0
    assert line.ratio >= RATIO
    assert line.cosine >= (0.94 if name in SMOOTH else COSINE)


def test_the_committed_table() -> None:
    """It covers the whole zoo, is generated from its JSON, and says of every model below the mark why."""
    data = json.loads((RESULTS / "zoo.json").read_text())
    lines = [Line(**data["rows"][name]) for name in ZOO]
    assert Path(RESULTS / "zoo.md").read_text() == table(lines, data["bits"])
    families = [line.model.split("/")[0] for line in lines]
    assert families.count("torchvision") >= 20 and families.count("transformers") >= 20
    assert all(line.good or line.reason for line in lines)
    assert all(line.ratio >= 1 and line.ratio_bfloat16 >= 1 for line in lines)
