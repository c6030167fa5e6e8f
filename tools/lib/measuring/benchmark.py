"""The networks and systems of tools/bench.py, and its results: one JSON file, written after every entry."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tools.lib.checkpoint import write_text
from tools.lib.measuring.calculations import geometric_mean
from tools.lib.measuring.environment import SCHEMA, environment
from tools.lib.measuring.pages import comparison, head, table
from tools.lib.user_errors import UserError, pick

Json = dict[str, Any]
Say = Callable[[str], None]
Series = dict[str, list[tuple[float, float]]]

BITS = 4
DTYPES = ("float32", "bfloat16")
SYSTEMS = (
    "approx_fx", "compile", "approx_fx@8", "approx_fx@2", "eager", "budget", "checkpoint", "checkpoint-eager", "fp8",
)  # fmt: skip
# name -> target, batch
NETWORKS = {
    "resnet18_cifar": ("models.resnet:resnet18_cifar", 128),
    "preact_resnet164": ("models.preact_resnet:preact_resnet164", 64),
    "vgg16_bn": ("models.vgg:vgg16_bn", None),
    "densenet121": ("models.densenet:densenet121", None),
    "gpt_tiny": ("models.gpt:gpt_tiny", None),
    "vit_small": ("models.vit:vit_small", None),
}
DEPTHS = {
    "20": "models.preact_resnet:preact_resnet20",
    "56": "tools.lib.measuring.nets:preact_resnet56",
    "110": "tools.lib.measuring.nets:preact_resnet110",
    "164": "models.preact_resnet:preact_resnet164",
}


def choose(what: str, text: str, allowed: Iterable[str]) -> list[str]:
    """Parse comma-separated names, without repetitions; a system may carry a width after an @.

    Raises:
        UserError: `text` names nothing, or something that is not allowed.
    """
    from approx_fx.bench.baselines import pick as pick_system
    from approx_fx.errors import ApproxFxError

    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UserError(f"No {what} is named; known are {', '.join(allowed)}.")
    for name in names:
        if what == "system":
            try:
                pick_system(name, what)
            except ApproxFxError as error:
                raise UserError(str(error)) from error
        else:
            pick(what, name, allowed)
    return names


class BenchmarkResults:
    """The result files `NAME.json` and `NAME.md` in a folder.

    Args:
        out: the folder.
        name: the files' name without ending.
        today: the date stored with new entries.

    Raises:
        UserError: the file is damaged or of another schema.
    """

    def __init__(self, out: Path, name: str, today: str) -> None:
        self.out, self.name, self.today = out, name, today
        self.data: Json = {"entries": {}}
        path = self.file(".json")
        if path.exists():
            try:
                self.data = json.loads(path.read_text())
                if self.data["schema"] != SCHEMA:
                    raise ValueError(f"schema {self.data['schema']} instead of {SCHEMA}")
                self.data["entries"].items()
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise UserError(f"{path} cannot be read ({error}); move it away or give another --name.") from error

    def file(self, ending: str) -> Path:
        """The path of the result file with this ending."""
        return self.out / f"{self.name}{ending}"

    def write(self) -> None:
        """Write the JSON and the Markdown page."""
        self.data = {**self.data, **environment(), "geometric_mean": means(self.data["entries"])}
        write_text(self.file(".json"), json.dumps(self.data, indent=1) + "\n")
        self.write_page()

    def write_page(self) -> None:
        """Write the Markdown page from the stored results. Raises UserError if there are none."""
        if "device" not in self.data:
            raise UserError(f"{self.file('.json')} is missing: run `python tools/bench.py run` first.")
        write_text(self.file(".md"), render(self.data))

    def means_line(self) -> str:
        """The geometric means as one line of text."""
        return means_line(means(self.data["entries"]))

    def compare(
        self, key: str, target: str, batch: int | None, dtype: str, systems: list[str], steps: int, warm: bool, say: Say
    ) -> None:
        """Measure one entry and store it; an error is stored as its result."""
        result = run_compare(target, batch, dtype, systems, steps, warm, _prefixed(say, key))
        self.data["entries"][key] = {"date": self.today, "steps": steps, **result}
        self.write()

    def batches(self, target: str, sizes: list[int], dtype: str, systems: list[str], steps: int, say: Say) -> Series:
        """Measure throughput (samples per second) at each batch; system -> [(batch, throughput)]."""
        series: Series = {}
        for size in sizes:
            result = run_compare(target, size, dtype, systems, steps, False, _prefixed(say, size))
            for system, run in result.get("runs", {}).items():
                if run.get("step_seconds") and run.get("samples"):
                    series.setdefault(system, []).append((size, run["samples"] / run["step_seconds"]))
            self.data.setdefault("batches", {})[f"{target} {dtype}"] = {"date": self.today, "series": series}
            self.write()
        return series

    def depths(self, depths: list[str], batch: int, dtype: str, systems: list[str], say: Say) -> Series:
        """Measure the peak (MiB) at each depth; system -> [(depth, peak)]."""
        series: Series = {}
        for name in depths:
            result = run_compare(DEPTHS[name], batch, dtype, systems, 1, False, _prefixed(say, name))
            for system, run in result.get("runs", {}).items():
                if "peak_bytes" in run:
                    series.setdefault(system, []).append((int(name), run["peak_bytes"] / 2**20))
            self.data.setdefault("depth", {})[f"batch {batch} {dtype}"] = {"date": self.today, "series": series}
            self.write()
        return series

    def largest(
        self, target: str, gib: float, dtype: str, systems: list[str], small: tuple[int, int], steps: int, say: Say
    ) -> None:
        """Find each system's largest batch that fits `gib` GiB, and store it."""
        import torch

        from tools.lib.measuring.largest import largest_batch

        enforce = torch.cuda.is_available()
        for system in systems:
            result = largest_batch(
                system, target, int(gib * 2**30), dtype, BITS, small, small[0], 6 if enforce else 1, steps, enforce,
                progress=say,
            )  # fmt: skip
            key = f"{target} {dtype} {gib:g} GiB"
            self.data.setdefault("largest", {}).setdefault(key, {})[system] = {"date": self.today, **result}
            say(f"{system}: {result.get('failed') or 'batch ' + str(result['batch'])}")
            self.write()


def _prefixed(say: Say, name: object) -> Say:
    return lambda text: say(f"{name}: {text}")


def run_compare(
    target: str, batch: int | None, dtype: str, systems: list[str], steps: int, warm: bool, say: Say,
    seconds: float | None = None, save: Callable[[Json], None] = lambda _: None,
    turn: contextlib.AbstractContextManager[object] | None = None,
) -> Json:  # fmt: skip
    """Run `approx_fx.bench.compare` at 4 bits for `systems` and torch.compile; an error returns {"failed": why}.

    save: called with partial results, which have only `runs` and `batch`. turn: see `approx_fx.bench.compare`.
    """
    from approx_fx.bench.compare import compare
    from approx_fx.config import Config

    others = tuple(dict.fromkeys(("compile", *(name for name in systems if name != "approx_fx"))))
    try:
        return compare(target, batch, Config(bits=BITS), dtype, steps, others, say, warm, True, seconds,
                       lambda runs: save({"batch": batch, "runs": runs}), turn)  # fmt: skip
    except Exception as error:
        text = str(error).strip().splitlines()
        return {"failed": f"{type(error).__name__}: {text[0] if text else ''}"}


def means(entries: dict[str, Json]) -> Json:
    """Geometric means of ratio.step and ratio.compile over the entries of each dtype; `entries` counts them."""
    mean_by_dtype: Json = {}
    for dtype in DTYPES:
        ratios = [entry["ratio"] for entry in entries.values() if entry.get("ratio") and entry.get("dtype") == dtype]
        if ratios:
            mean_by_dtype[dtype] = {
                part: geometric_mean(ratio[part] for ratio in ratios) for part in ("step", "compile")
            }
            mean_by_dtype[dtype]["entries"] = len(ratios)
    return mean_by_dtype


def means_line(mean_by_dtype: Json) -> str:
    """A line such as `float32: step 0.98x, compile 1.20x of torch.compile, geometric means of 6`."""
    parts = [
        f"{dtype}: step {mean['step']:.2f}x, compile {mean['compile']:.2f}x of torch.compile, "
        f"geometric means of {mean['entries']}"
        for dtype, mean in mean_by_dtype.items()
    ]
    return "; ".join(parts) or "nothing measured yet"


def render(data: Json) -> str:
    """The Markdown page of all results."""
    lines = head("Training steps, system by system", data)
    lines += [
        "Medians of alternated steps, each system in a process of its own; warm is a new process that finds the cache "
        "filled. Saved and peak are bytes above parameters and inputs. Cosine and loss refer to torch.compile. "
        f"approx_fx without a width is at {BITS} bits.",
        "",
        means_line(data.get("geometric_mean", {})) + ".",
        "",
    ]
    for key, entry in data["entries"].items():
        lines += comparison(f"{key}, batch {_samples(entry)}", entry)
    for title, unit, part in (
        ("Throughput against batch", "samples/s", "batches"), ("Peak against depth", "MiB", "depth"),
    ):  # fmt: skip
        for key, result in data.get(part, {}).items():
            series = result["series"]
            xs = sorted({x for points in series.values() for x, _ in points})
            rows = ([name, *(f"{dict(map(tuple, points)).get(x, float('nan')):.1f}" for x in xs)]
                    for name, points in series.items())  # fmt: skip
            lines += [f"## {title}: {key}, {unit}", "", *table(["system", *map(str, xs)], rows), ""]
    for key, systems in data.get("largest", {}).items():
        rows = ([name, str(result.get("batch") or result.get("failed") or "none fitted"),
                 f"{result['samples_per_second']:.1f}" if result.get("samples_per_second") else "-"]
                for name, result in systems.items())  # fmt: skip
        lines += [f"## Largest batch: {key}", "", *table(["system", "batch", "samples/s"], rows), ""]
    return "\n".join(lines)


def _samples(entry: Json) -> str:
    samples = [run["samples"] for run in entry.get("runs", {}).values() if run.get("samples")]
    return str(samples[0] if samples else entry.get("batch"))
