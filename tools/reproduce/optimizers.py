"""Other optimizers: SGD with momentum, Adam, AdamW and RMSprop, each exact against 4 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tools.lib.optimizers import LEARNING_RATES
from tools.reproduce.comparison import MAIN, by_seed, error_of, foot, main_data, main_settings, pool_of
from tools.reproduce.run_cache import Json, final
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
    """The group of an optimizer's runs; SGD's are the main ones."""
    return MAIN if optimizer == "sgd" else f"optimizer-{optimizer}"


def measure(size: Size, out: Path) -> None:
    """Train what is missing."""
    dataset = main_data(size)
    for optimizer, rate in LEARNING_RATES.items():
        settings = replace(main_settings(size), optimizer=optimizer, lr=rate)
        pool_of(out).train(group_of(optimizer), NAMES, size.seeds, dataset, settings)


def page(size: Size, out: Path) -> str:
    """The table."""
    pool, rows, every = pool_of(out), [], {}
    for optimizer in LEARNING_RATES:
        exact, ours = (pool.read(group_of(optimizer), name, size.seeds) for name in NAMES)
        if not exact or not ours:
            continue
        every[f"{optimizer} exact"], every[f"{optimizer} 4"] = exact, ours
        errors, mine = by_seed(exact, error_of), by_seed(ours, error_of)
        losses = paired(by_seed(ours, loss_of), by_seed(exact, loss_of))
        rows.append((
            optimizer, with_deviation(list(errors.values())), with_deviation(list(mine.values())),
            with_error(paired(mine, errors)), with_error(losses, 3),
        ))  # fmt: skip
    return f"{table(HEADS, rows)}\n\n{foot(every, 'python -m tools.reproduce optimizers')}"


def loss_of(run: Json) -> float:
    """The last epoch's training loss."""
    return final(run, "train_loss")
