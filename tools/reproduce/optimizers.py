"""Other optimizers: SGD with momentum, Adam, AdamW and RMSprop, each exact against 4 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tools.lib.optimizers import LEARNING_RATES
from tools.reproduce.comparison import MAIN, by_seed, error_of, foot, main_data, main_settings
from tools.reproduce.run_cache import Json, RunCache, final
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import paired, table, with_deviation, with_error

NAMES = ("exact", "ours-4")
HEADS = (
    "optimizer",
    "exact, test error %",
    "4 bits, test error %",
    "difference, points",
    "difference of training loss",
)


def group_of(optimizer: str) -> str:
    """The group of an optimizer's runs; SGD's runs are those of the main net."""
    return MAIN if optimizer == "sgd" else f"optimizer-{optimizer}"


def measure(size: Size, out: Path) -> None:
    """Train the missing runs."""
    dataset = main_data(size)
    for optimizer, rate in LEARNING_RATES.items():
        settings = replace(main_settings(size), optimizer=optimizer, lr=rate)
        RunCache(out).train(group_of(optimizer), NAMES, size.seeds, dataset, settings)


def page(size: Size, out: Path) -> str:
    """The Markdown table of the optimizers, with its footnote."""
    cache, rows, groups = RunCache(out), [], {}
    for optimizer in LEARNING_RATES:
        exact, coded = (cache.read(group_of(optimizer), name, size.seeds) for name in NAMES)
        if not exact or not coded:
            continue
        groups[f"{optimizer} exact"], groups[f"{optimizer} 4"] = exact, coded
        exact_errors, coded_errors = by_seed(exact, error_of), by_seed(coded, error_of)
        losses = paired(by_seed(coded, loss_of), by_seed(exact, loss_of))
        rows.append((
            optimizer, with_deviation(list(exact_errors.values())), with_deviation(list(coded_errors.values())),
            with_error(paired(coded_errors, exact_errors)), with_error(losses, 3),
        ))  # fmt: skip
    return f"{table(HEADS, rows)}\n\n{foot(groups, 'python -m tools.reproduce optimizers')}"


def loss_of(run: Json) -> float:
    """The last epoch's training loss."""
    return final(run, "train_loss")
