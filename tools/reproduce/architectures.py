"""Other architectures: VGG, DenseNet, sigmoid and tanh nets on the digits, an LSTM and a Transformer on Shakespeare."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tools.lib.datasets import load
from tools.lib.settings import Settings
from tools.reproduce.comparison import by_seed, device, error_of
from tools.reproduce.run_cache import Json, RunCache
from tools.reproduce.sizes import Size
from tools.reproduce.table_cells import paired, table, with_deviation, with_error
from tools.text import train as train_text

NAMES = ("exact", "ours-8", "ours-4", "ours-2")
IMAGES = ("vgg_small", "densenet_small", "sigmoid_net", "tanh_net")
TEXT = ("lstm_small", "nn_lstm_small", "gpt_mini")
HEADS = ("net", "quality", "exact", "8 bits", "4 bits", "2 bits", "saved at 4 bits, smaller by")


def measure(size: Size, out: Path) -> None:
    """Train the missing runs, op by op, because nets this small take longer to compile than to train."""
    cache, digits = RunCache(out), load("digits").to(device())
    for model in IMAGES:
        settings = Settings("digits", model, None, 0, size.small_epochs, compiler="eager")
        cache.train(f"net-{model}", NAMES, size.seeds, digits, settings)
    for model in TEXT:
        for seed in size.seeds:
            for name in NAMES:
                text_settings = {"model": model, "method": name, "seed": seed, "steps": size.text_steps}
                cache.run_once(f"net-{model}", name, seed, text_settings, partial(_text, model, name, seed, size))


def _text(model: str, name: str, seed: int, size: Size, title: str) -> Json:
    bits = None if name == "exact" else int(name.partition("-")[2])
    result = train_text(model, bits, seed, size.text_steps, "eager")
    print(title, f"{result['validation_loss']:.4f} nats, {result['seconds']:.0f} s", flush=True)
    return result


def page(size: Size, out: Path) -> str:
    """The table: test error in percent, or the loss on held-out text in nats, and the differences to exact."""
    cache, rows, runs = RunCache(out), [], []
    for model in (*IMAGES, *TEXT):
        runs_by_method = {name: cache.read(f"net-{model}", name, size.seeds) for name in NAMES}
        if not all(runs_by_method.values()):
            continue
        runs += [run for group in runs_by_method.values() for run in group]
        rows.append(_row(model, runs_by_method))
    if not runs:
        return "Not measured yet: `python -m tools.reproduce architectures`"
    where = runs[0]["environment"]
    dates = sorted(run["date"][:10] for run in runs)
    seeds = dict.fromkeys(str(run["settings"]["seed"]) for run in runs)
    return (
        f"{table(HEADS, rows)}\n\nDifferences to exact are means over the seeds {', '.join(seeds)} with "
        f"their standard error; {size.small_epochs} epochs of the digits, {size.text_steps} steps of text, op by op; "
        f"{where['device']}, torch {where['torch']}, approx_fx {where['approx_fx']}, {dates[-1]}; "
        f"{_minutes(runs):.0f} minutes; `python -m tools.reproduce architectures`"
    )


def _row(model: str, runs_by_method: dict[str, list[Json]]) -> Sequence[str]:
    quality = {name: by_seed(runs, _quality) for name, runs in runs_by_method.items()}
    digits = 2 if model in IMAGES else 3
    cells = [with_deviation(list(quality["exact"].values()), digits)]
    cells += [with_error(paired(quality[name], quality["exact"]), digits) for name in NAMES[1:]]
    coded = runs_by_method["ours-4"][0]
    unit = "test error %" if model in IMAGES else "nats"
    return (model, unit, *cells, f"{coded['saved_before'] / coded['saved_after']:.1f}x")


def _quality(run: Json) -> float:
    """The quality measure of a run: loss in nats, or test error in percent; lower is better."""
    return float(run["validation_loss"]) if "validation_loss" in run else error_of(run)


def _minutes(runs: Sequence[Json]) -> float:
    run_seconds = (run["seconds"] if "seconds" in run else run["history"][-1]["total_seconds"] for run in runs)
    return sum(run_seconds) / 60
