"""The results of a set of training runs: log.csv, results.json, and a table for the terminal."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import math
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from tools.lib.checkpoint import write_text
from tools.lib.settings import Epoch, Record, differences, label
from tools.lib.user_errors import UserError

COLUMNS = ("bits", "seed", "epoch", "train_loss", "test_accuracy", "seconds", "total_seconds")


@dataclass(frozen=True)
class Summary:
    """Means over the seeds of the finished runs with one number of bits; standard deviation None for one seed."""

    bits: int | None
    seeds: tuple[int, ...]
    test_accuracy_mean: float
    test_accuracy_sd: float | None
    train_seconds_mean: float
    saved_before: int | None
    saved_after: int | None


def summarise(records: Iterable[Record]) -> list[Summary]:
    """One Summary for each number of bits that has a finished run: exact first, then by decreasing bits."""
    groups: dict[int | None, list[Record]] = {}
    for record in sorted(records, key=run_order):
        if record.finished and record.history:
            groups.setdefault(record.bits, []).append(record)
    summaries = []
    for bits, runs in groups.items():
        accuracies = [run.history[-1].test_accuracy for run in runs]
        summaries.append(
            Summary(
                bits=bits,
                seeds=tuple(run.seed for run in runs),
                test_accuracy_mean=statistics.fmean(accuracies),
                test_accuracy_sd=statistics.stdev(accuracies) if len(runs) > 1 else None,
                train_seconds_mean=statistics.fmean(run.history[-1].total_seconds for run in runs),
                saved_before=runs[0].saved_before,
                saved_after=runs[0].saved_after,
            )
        )
    return summaries


def run_order(record: Record) -> tuple[int, int]:
    """Sort key: exact first, then by decreasing bits, then by seed."""
    return (-99 if record.bits is None else -record.bits, record.seed)


class RunLog:
    """The runs of one output folder, in memory and in its files.

    Args:
        out: the folder.
        settings: the settings that all its runs share.
        device: the device they run on.

    Raises:
        UserError: the folder holds the results of other settings, or a damaged results.json.
    """

    def __init__(self, out: Path, settings: dict[str, Any], device: torch.device) -> None:
        self.out = out
        self.settings = settings
        self.environment = environment(device)
        self.records: dict[tuple[int | None, int], Record] = {}
        path = out / "results.json"
        if not path.exists():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            changed = differences(stored["settings"], settings)
            records = [_record(run) for run in stored["runs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); start anew with --fresh.") from error
        if changed:
            raise UserError(
                f"{path} holds runs with {changed}. Give the same settings, another --out, or start anew with --fresh."
            )
        self.records = {(record.bits, record.seed): record for record in records}

    def put(self, record: Record) -> None:
        """Store the state of one run and rewrite log.csv and results.json."""
        self.records[record.bits, record.seed] = record
        write_text(self.out / "log.csv", self.csv())
        write_text(self.out / "results.json", self.json())

    def csv(self) -> str:
        """One line for each run and epoch, with the columns COLUMNS; accuracies are 0..1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in self.sorted():
            for epoch in record.history:
                times = (f"{epoch.seconds:.3f}", f"{epoch.total_seconds:.3f}")
                values = (f"{epoch.train_loss:.6g}", f"{epoch.test_accuracy:.6g}", *times)
                writer.writerow((label(record.bits), record.seed, epoch.epoch, *values))
        return text.getvalue()

    def json(self) -> str:
        """Settings, environment, every run with its history, and the summary; a loss that is not finite is null."""
        content = {
            "schema": 1,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "settings": self.settings,
            "environment": self.environment,
            "runs": [asdict(record) for record in self.sorted()],
            "summary": [asdict(summary) for summary in summarise(self.records.values())],
        }
        return json.dumps(finite(content), indent=2, allow_nan=False) + "\n"

    def sorted(self) -> list[Record]:
        """All runs: exact first, then by decreasing bits, then by seed."""
        return sorted(self.records.values(), key=run_order)

    def table(self, title: str) -> Table:
        """One line for each number of bits: accuracy, training time, saved bytes."""
        table = Table(title=title)
        for heading in ("bits", "seeds", "test accuracy %", "train seconds", "saved MB", "smaller by"):
            table.add_column(heading, justify="right")
        for row in summarise(self.records.values()):
            spread = "" if row.test_accuracy_sd is None else f" ± {100 * row.test_accuracy_sd:.2f}"
            saved, ratio = saved_text(row.saved_before, row.saved_after)
            table.add_row(
                label(row.bits),
                str(len(row.seeds)),
                f"{100 * row.test_accuracy_mean:.2f}{spread}",
                f"{row.train_seconds_mean:.1f}",
                saved,
                ratio,
            )
        return table


def saved_text(before: int | None, after: int | None) -> tuple[str, str]:
    """(`before → after`, `ratio x`) in MB for a table; two dashes if nothing was saved as codes."""
    if before is None or not after:
        return "-", "-"
    return f"{megabytes(before)} → {megabytes(after)}", f"{before / after:.1f}x"


def megabytes(count: int) -> str:
    """Bytes in units of 10^6, as text without the unit."""
    return f"{count / 1e6:.2f}"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and device, as stored in results.json."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"CPU, {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
    try:
        version = importlib.metadata.version("approx_fx")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    return {"python": platform.python_version(), "torch": torch.__version__, "approx_fx": version, "device": name}


def finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by None, in nested lists and dicts too."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _record(stored: dict[str, Any]) -> Record:
    """A Record from its JSON in results.json; a null loss becomes NaN."""
    epochs = [Epoch(**epoch) for epoch in stored["history"]]
    history = tuple(replace(e, train_loss=math.nan) if e.train_loss is None else e for e in epochs)
    return Record(**{**stored, "history": history})
