"""A real browser, headless: Debian's chromium, installed where it is missing and apt is there, driven by playwright."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@lru_cache(1)
def chromium() -> str | None:
    """The browser's path; None where there is none and none can be installed."""
    found = shutil.which("chromium")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "chromium", "fonts-dejavu-core"],
        ):
            subprocess.run(command, check=False, capture_output=True, timeout=500)
        found = shutil.which("chromium")
    return found


@dataclass
class Opened:
    """A page in the browser. complaints: what it said on the console; left: requests that were not for the file."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(script)

    def columns(self, source: str) -> dict[str, Any]:
        """What a figure is drawn from, without the empty outlines that the page keeps."""
        found: dict[str, Any] = self.run(
            f"Object.fromEntries([...Object.entries(approxPage.model('{source}').data)].map(([k, v]) => [k, [...v]]))"
        )
        drawn = [bool(xs) for xs in found["xs"]] if "xs" in found else None
        return {name: [*compress(values, drawn)] if drawn else values for name, values in found.items()}

    def place(self, figure: str, x: float, y: float) -> tuple[float, float]:
        """Where a point of a figure lies in the window, the figure scrolled to."""
        self.page.locator(f"#{figure}-plot").scroll_into_view_if_needed()
        self.run(
            f"""(() => {{ const view = [...Bokeh.index].find((each) => each.model.name === "{figure}");
            const box = view.el.getBoundingClientRect(), at = box.top + view.frame.y_scale.compute({y});
            window.scrollBy(0, at - window.innerHeight / 2); }})()"""
        )
        left, top = self.run(
            f"""(() => {{ const view = [...Bokeh.index].find((each) => each.model.name === "{figure}");
            const box = view.el.getBoundingClientRect();
            return [box.left + view.frame.x_scale.compute({x}), box.top + view.frame.y_scale.compute({y})]; }})()"""
        )
        return left, top

    def hover(self, figure: str, x: float, y: float) -> str:
        """Point at it; what the figure then tells."""
        self.page.mouse.move(0, 0)
        self.page.mouse.move(*self.place(figure, x, y))
        tip = self.page.locator(".bk-tooltip-content:visible").first
        tip.wait_for(timeout=5000)
        return str(tip.inner_text())

    def click(self, figure: str, x: float, y: float) -> None:
        """Click on it."""
        self.page.mouse.click(*self.place(figure, x, y))
        self.page.wait_for_timeout(400)  # bokeh waits whether a second click makes it a double click


@contextmanager
def opened(
    path: Path, width: int = 1400, height: int = 900, dark: bool = False, phone: bool = False, bypass: bool = True
) -> Iterator[Opened]:
    """A file opened from disk, once its scripts have drawn it."""
    from playwright.sync_api import sync_playwright

    browser = chromium()
    if browser is None:
        pytest.skip("needs a browser: there is no chromium, and apt, which installs it in CI, is not usable here")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=list(FLAGS))
        context = running.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=phone,
            bypass_csp=bypass,  # for the driver's own scripts
        )
        seen = Opened(context.new_page())
        seen.page.on("console", lambda said: said.type in ("error", "warning") and seen.complaints.append(said.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        local = ("file:", "data:", "blob:")
        seen.page.on("request", lambda sent: sent.url.startswith(local) or seen.left.append(sent.url))
        seen.page.goto(path.as_uri())
        seen.page.locator("#count", has_text="ops").wait_for(timeout=60000)
        yield seen
        running.close()
