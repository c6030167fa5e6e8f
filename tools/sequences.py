"""Find the longest sequence that fits the memory which torch.compile needs for 2,048 tokens, by each system.

    python tools/sequences.py        writes docs/results/sequences.json, in a quarter of an hour

The Llama of models/, 4 layers x 512 with grouped heads and 32,000 words, batch 1, float32, its loss in the graph. Peaks
are those of Inductor's code for a CPU (`approx_fx.bench.code_peak`), gradients of parameters included; nothing is run.
torch's linear_cross_entropy is not in that code; `approx-fx compare` measures it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import nn

from approx_fx.bench.baselines import CHUNKED, SYSTEMS, is_approx_fx
from approx_fx.bench.code_peak import peak_of
from approx_fx.bench.target import loss_inside
from approx_fx.config import Config
from models.llama import Llama
from tools.lib.checkpoint import write_text
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import environment, footnote
from tools.lib.repo_path import ROOT

RESULTS = ROOT / "docs" / "results" / "sequences.json"
PAGE = ROOT / "docs" / "language_models.md"
LENGTHS = (512, 2048, 8192)
GRAIN = 256  # tokens
WORDS = 32000


# name of a system of `approx-fx compare` -> its name in the table
ABOUT = {
    "compile": "torch.compile",
    "chunked": "torch.compile, auto_chunker",
    "checkpoint": "torch.compile, checkpointing",
    "approx_fx": "approx_fx, 4 bits",
    "approx_fx+checkpoint": "approx_fx, 4 bits, and checkpointing",
}


def peak(name: str, length: int) -> int:
    """Peak bytes of a step with `length` tokens by the system `name`."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = SYSTEMS[name].prepare(Llama(4, 512, 8, 4, 1376, WORDS))
    tokens = torch.zeros(1, length, dtype=torch.int64)
    model = loss_inside(model, lambda logits: nn.functional.cross_entropy(logits.flatten(0, 1), tokens[0]))
    config = Config(bits=4) if is_approx_fx(name) else None
    return peak_of(model, (tokens,), {}, config=config, inductor=CHUNKED if name == "chunked" else None)


def longest(peaks: dict[int, int], measure: Callable[[int], int], memory: int) -> int:
    """The longest sequence, in steps of GRAIN, whose peak is at most `memory`, by interpolation of a line.

    peaks: length -> bytes, of two lengths at least; it gets what is measured, six lengths at most.
    """
    for _ in range(6):
        fits = max((length for length, bytes_ in peaks.items() if bytes_ <= memory), default=0)
        exceeds = min((length for length, bytes_ in peaks.items() if bytes_ > memory), default=None)
        if exceeds is not None and exceeds - fits <= GRAIN:
            break
        short, long = sorted(peaks)[-2:] if exceeds is None else (fits, exceeds)
        low, high = peaks.get(short, 0), peaks[long]
        guess = int(short + (memory - low) * (long - short) / max(high - low, 1)) // GRAIN * GRAIN
        last = guess if exceeds is None else exceeds - GRAIN
        length = max(min(guess, last), fits + GRAIN)
        peaks[length] = measure(length)
    return max((length for length, bytes_ in peaks.items() if bytes_ <= memory), default=0)


def table(data: dict[str, Any]) -> str:
    """The table of docs/language_models.md."""
    head = " | ".join(f"peak, {length:,} tokens" for length in LENGTHS)
    rows = [f"| system | {head} | longest in {data['memory'] / 2**20:.0f} MiB |", "|---|" + "---|" * (len(LENGTHS) + 1)]
    for row in data["systems"]:
        cells = " | ".join(f"{row['peaks'][str(length)] / 2**20:.0f} MiB" for length in LENGTHS)
        rows.append(f"| {row['about']} | {cells} | {row['longest']:,} |")
    return "\n".join([*rows, "", footnote(data)])


def main() -> None:
    """Predict all peaks and write the results and the table."""
    made = environment()
    memory, rows = 0, []
    for name, about in ABOUT.items():
        peaks = {length: peak(name, length) for length in LENGTHS}
        memory = memory or peaks[2048]
        top = longest(peaks, lambda length, name=name: peak(name, length), memory)  # type: ignore[misc]
        by_length = {str(length): bytes_ for length, bytes_ in sorted(peaks.items())}
        rows.append({"system": name, "about": about, "peaks": by_length, "longest": top})
        print(rows[-1], flush=True)
    data = {**made, "memory": memory, "systems": rows}
    write_text(RESULTS, json.dumps(data, indent=1) + "\n")
    write_text(PAGE, fill(PAGE.read_text(), {"sequences": table(data)}, PAGE.name))


if __name__ == "__main__":
    typer.run(main)
