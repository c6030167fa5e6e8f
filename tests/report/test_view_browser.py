"""The page in a real browser: it opens from disk, alone; hover, click, toggle, search, sort, keys; its numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import approx_fx
from approx_fx.report.data import Report
from approx_fx.report.text import size
from models.densenet import densenet121
from models.gpt import gpt_small
from models.preact_resnet import preact_resnet164
from models.resnet import resnet18_cifar
from tests.support.browser import Opened, opened

pytestmark = pytest.mark.browser

NETWORKS: dict[str, Any] = {
    "resnet18_cifar": lambda: resnet18_cifar(8),
    "preact_resnet164": lambda: preact_resnet164(4),
    "densenet121": lambda: densenet121(4),
    "gpt_small": lambda: gpt_small(2, 64),
}


FIRST, *OTHERS = NETWORKS


@pytest.fixture(scope="module", params=[FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Report]:
    """A network's name, its page, its report."""
    model, inputs = NETWORKS[request.param]()[:2]
    path = tmp_path_factory.mktemp("view") / f"{request.param}.html"
    return request.param, path, approx_fx.view(model, *inputs, path=path)


def test_the_page(shown: tuple[str, Path, Report]) -> None:
    name, path, report = shown
    if name == "gpt_small":
        assert path.stat().st_size < 3e6
    with opened(path) as seen:
        _numbers(seen, report)
        _ribbon(seen, report)
        _timeline(seen, report)
        _graph(seen)
        _table(seen, report)
        _both_partitions(seen, report)
        assert (seen.complaints, seen.left) == ([], [])


def _numbers(seen: Opened, report: Report) -> None:
    told = dict(
        zip(
            seen.page.locator("#summary dt").all_inner_texts(),
            seen.page.locator("#summary dd").all_inner_texts(),
            strict=True,
        )
    )
    data = json.loads(report.to_json())
    assert told["saved"] == f"{size(data['saved_bytes']['before'])} → {size(data['saved_bytes']['after'])}"
    assert told["smaller"] == f"{data['ratio']:.1f}x" and told["decoded early"] == "none"
    peak = data["predicted_peak_bytes"]
    assert told["predicted peak"] == f"{size(peak['before'])} → {size(peak['after'])}"
    rows = seen.columns("rows")
    assert sum(rows["bytes after"]) == data["saved_bytes"]["after"]
    assert len(rows["module"]) == len(data["tensors"]) + len(data["kept"])


def _ribbon(seen: Opened, report: Report) -> None:
    arcs = seen.columns("arcs")
    assert len(arcs["xs"]) > 5
    # The thickest arc that nothing covers at its middle is the last one drawn there.
    thick = max(range(len(arcs["ys"])), key=lambda i: abs(arcs["ys"][i][-1] - arcs["ys"][i][0]))
    ys = arcs["ys"][thick]
    told = seen.hover("ribbon", 0.5, (ys[12] + ys[-13]) / 2)
    for part in ("shape:", "coding:", "bytes:", "made:", "read:", "source:", "error:", " -> "):
        assert part in told
    assert re.search(r"\d bits?|exact", told)
    folded = len(seen.columns("slots")["title"])
    slots = seen.columns("slots")
    foldable = [i for i, hint in enumerate(slots["hint"]) if hint == "click to unfold"]
    assert foldable, "every one of these networks has like layers"
    at = foldable[0]
    seen.click("ribbon", -0.008, (slots["top"][at] + slots["bottom"][at]) / 2)
    assert len(seen.columns("slots")["title"]) > folded
    seen.page.select_option("#folds", "0")
    assert len(seen.columns("slots")["title"]) == folded


def _timeline(seen: Opened, report: Report) -> None:
    live = seen.columns("live")
    parameters = seen.run("approxPage.data.parameters")
    assert max(live["top"]) * 2**20 == pytest.approx(report.predicted_peak["after"] + parameters, rel=1e-9)
    assert max(seen.columns("ghost")["top"]) * 2**20 == pytest.approx(
        report.predicted_peak["before"] + parameters, rel=1e-9
    )
    assert seen.columns("peak")["text"][0].startswith(f"peak {size(report.predicted_peak['after'])}")
    middle = len(live["x"]) // 2
    assert "parameters" in seen.hover("timeline", live["x"][middle], live["top"][middle])
    assert size(report.predicted_peak["after"]) in seen.page.locator("#alive b").inner_text()
    assert seen.page.locator("#alive li").count() >= 3


def _graph(seen: Opened) -> None:
    units = seen.columns("units")
    closed = len(units["x"])
    assert closed < 400 and seen.columns("bold")["xs"]
    at = next(i for i, hint in enumerate(units["hint"]) if hint.endswith("click to open"))
    assert units["hint"][at] in seen.hover("graph", units["x"][at], units["y"][at])
    seen.click("graph", units["x"][at], units["y"][at])
    assert len(seen.columns("units")["x"]) != closed
    assert units["hint"][at] not in seen.columns("units")["hint"]
    seen.page.fill("#search", "dequantize")
    assert seen.page.locator("#found button").count() > 1
    seen.page.locator("#found button").first.click()
    details = seen.page.locator("#details").inner_text()
    assert "dequantize" in details and "backward" in details and "read by" in details
    roles = seen.columns("units")
    outlined = {
        line for line, role in zip(roles["line"], roles["role"], strict=True) if role in ("quantize", "dequantize")
    }
    assert outlined == {"#0072B2"}
    seen.page.fill("#search", "no such name")
    assert "nothing is named so" in seen.page.locator("#found").inner_text()
    seen.page.click("#collapse")
    assert len(seen.columns("units")["x"]) <= closed
    seen.page.focus("#graph-plot")
    before = seen.columns("units")["hint"]
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        seen.page.keyboard.press(key)
    after = seen.columns("units")["hint"]
    assert after != before
    assert seen.page.locator("#details").inner_text() != "Nothing is chosen."
    seen.page.keyboard.press("Backspace")
    assert seen.columns("units")["hint"] == before


def _table(seen: Opened, report: Report) -> None:
    heading = seen.page.locator(".slick-header-column", has_text="bytes after")
    first = seen.page.locator(".slick-row").first.locator(".slick-cell").nth(7)
    found = []
    for _ in range(2):
        heading.click()
        found.append(int(first.inner_text().replace(",", "")))
    sizes = [row.bytes_after for row in report.tensors] + [row.bytes for row in report.kept]
    assert found == [min(sizes), max(sizes)]
    reason = report.kept[0].reason
    seen.page.fill("#filter", reason.upper())
    rows = seen.columns("rows")
    assert sum(each == reason for each in rows["kept exact"]) == sum(kept.reason == reason for kept in report.kept)
    assert len(rows["module"]) < len(sizes)
    lines = seen.run("approxPage.csv()").splitlines()
    assert len(lines) == len(rows["module"]) + 1 and lines[0].startswith("module,op,shape,dtype,stored as,bits,")
    seen.page.click("#csv")
    assert seen.page.locator("#rows").inner_text() == f"copied {len(rows['module'])} rows"
    seen.page.fill("#filter", "")


def _both_partitions(seen: Opened, report: Report) -> None:
    thickness = sum(abs(ys[-1] - ys[0]) for ys in seen.columns("arcs")["ys"])
    seen.page.click("#show-before")
    assert seen.page.get_attribute("#show-before", "aria-pressed") == "true"
    assert seen.page.get_attribute("#show-after", "aria-pressed") == "false"
    assert sum(seen.columns("rows")["bytes after"]) == report.saved_before
    assert sum(abs(ys[-1] - ys[0]) for ys in seen.columns("arcs")["ys"]) > 2 * thickness
    assert not [role for role in seen.columns("units")["role"] if role == "quantize"]
    assert size(report.predicted_peak["before"]) in seen.page.locator("#alive b").inner_text()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone(dark: bool, tmp_path: Path) -> None:
    model, inputs = resnet18_cifar(2)
    path = tmp_path / "phone.html"
    approx_fx.view(model, *inputs, path=path)
    with opened(path, 390, 844, dark=dark, phone=True) as seen:
        assert seen.run("document.documentElement.scrollWidth") <= 390
        assert seen.run("document.documentElement.dataset.theme") == ("dark" if dark else "light")
        ink, paper = seen.run(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert _contrast(ink, paper) > 7
        seen.page.click("#theme")
        assert seen.run("document.documentElement.dataset.theme") == ("light" if dark else "dark")
        names = seen.columns("names")
        assert max(map(len, names["text"])) <= 15
        assert seen.complaints == []


def _contrast(one: str, two: str) -> float:
    """WCAG's contrast ratio of two rgb(...) colours."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


EVIL = "<script>window.harmed = 1</script>"


def test_its_own_policy_lets_its_scripts_run(tmp_path: Path) -> None:
    """The page forbids itself the network and code made of text; what draws it needs neither."""
    model, inputs = resnet18_cifar(2)
    path = tmp_path / "strict.html"
    approx_fx.view(model, *inputs, path=path)
    with opened(path, bypass=False) as seen:
        assert seen.page.locator("#count").inner_text().endswith("ops")
        assert seen.page.locator("#alive li").count() >= 3 and seen.page.locator(".slick-row").count() > 5
        assert (seen.complaints, seen.left) == ([], [])


def test_markup_in_a_module_name_does_no_harm(tmp_path: Path) -> None:
    model = torch.nn.Sequential()
    model.add_module(EVIL.replace(".", " "), torch.nn.Linear(64, 256))
    model.add_module("relu", torch.nn.ReLU())
    model.add_module("</script><img src=x onerror='window[\"harmed\"] = 1'>", torch.nn.Linear(256, 64))
    path = tmp_path / "evil.html"
    approx_fx.view(model, torch.randn(64, 64), path=path)
    with opened(path) as seen:
        names = seen.columns("slots")["title"]
        assert any("<script>" in name or "<img" in name for name in names)
        slots = seen.columns("slots")
        for at in range(len(names)):
            seen.hover("ribbon", slots["left"][at] + 0.007, (slots["top"][at] + slots["bottom"][at]) / 2)
        seen.page.fill("#search", "linear")
        seen.page.fill("#search", "addmm")
        seen.page.locator("#found button").first.click()
        assert seen.run("window.harmed === undefined")
        assert seen.run("document.querySelectorAll('img').length") == 0
        assert (seen.complaints, seen.left) == ([], [])
