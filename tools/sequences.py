"""Find the longest sequence that fits the memory which torch.compile needs for 2,048 tokens, by each system.

    python tools/sequences.py        peaks, then steps, each in a quarter of an hour

The Llama of models/, 4 layers x 512 with grouped heads and 32,000 words, batch 1, float32, its loss in the graph. Peaks
are those of Inductor's code for a CPU (`approx_fx.bench.code_peak`), gradients of parameters included; nothing is run
for them. A step's seconds are the median of some, the systems taking turns in one process. Results go to
docs/results/sequences.json and .png, and into the table of docs/language_models.md. torch's linear_cross_entropy is not
in Inductor's code; `approx-fx compare` measures it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn

from approx_fx.bench.baselines import CHUNKED, SYSTEMS, is_approx_fx
from approx_fx.bench.code_peak import peak_of
from approx_fx.bench.target import loss_inside
from approx_fx.config import Config
from models.llama import Llama
from tools.lib.checkpoint import write_text
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import environment, footnote
from tools.lib.measuring.plots import Series, draw_panels
from tools.lib.measuring.turns import median_seconds
from tools.lib.repo_path import ROOT

RESULTS = ROOT / "docs" / "results" / "sequences.json"
PAGE = ROOT / "docs" / "language_models.md"
LENGTHS = (512, 2048, 8192)
TIMED = (512, 2048)
GRAIN = 256  # tokens
STEPS = 3
WORDS = 32000


# name of a system of `approx-fx compare` -> its name in the table
ABOUT = {
    "compile": "torch.compile",
    "chunked": "torch.compile, auto_chunker",
    "checkpoint": "torch.compile, checkpointing",
    "approx_fx": "approx_fx, 4 bits",
    "approx_fx+checkpoint": "approx_fx, 4 bits, and checkpointing",
}


def llama(name: str, length: int) -> tuple[nn.Module, Tensor]:
    """The model as the system `name` prepares it, with its loss inside, and `length` tokens."""
    torch.manual_seed(0)
    model = SYSTEMS[name].prepare(Llama(4, 512, 8, 4, 1376, WORDS))
    tokens = torch.randint(WORDS, (1, length))
    return loss_inside(
        model, lambda logits: nn.functional.cross_entropy(logits.flatten(0, 1), tokens[0].roll(-1))
    ), tokens


def peak(name: str, length: int) -> int:
    """Peak bytes of a step with `length` tokens by the system `name`."""
    torch._dynamo.reset()
    model, tokens = llama(name, length)
    config = Config(bits=4) if is_approx_fx(name) else None
    return peak_of(model, (tokens,), {}, config=config, inductor=CHUNKED if name == "chunked" else None)


def seconds(length: int) -> dict[str, float]:
    """The median seconds of a step with `length` tokens by each system, which take turns."""
    torch._dynamo.reset()
    steps: dict[str, Callable[[], None]] = {}
    for name in ABOUT:
        model, tokens = llama(name, length)

        call = SYSTEMS[name].compile(model, Config(bits=4))

        def step(call: Any = call, model: nn.Module = model, tokens: Tensor = tokens) -> None:
            call(tokens).backward()
            model.zero_grad(set_to_none=True)

        with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            step()
        steps[name] = step
    return median_seconds(steps, STEPS)


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
    """The table of docs/language_models.md; a step's time, where it was taken, is given in torch.compile's."""
    timed = set(data["systems"][0].get("seconds", {}))
    heads = [f"{length:,} tokens: peak{', step' if str(length) in timed else ''}" for length in LENGTHS]
    rows = [f"| system | {' | '.join(heads)} | longest in {data['memory'] / 2**20:.0f} MiB |"]
    rows.append("|---|" + "---|" * (len(LENGTHS) + 1))
    for row in data["systems"]:
        cells = [f"{row['peaks'][str(length)] / 2**20:.0f} MiB" for length in LENGTHS]
        for index, length in enumerate(map(str, LENGTHS)):
            if length in timed:
                cells[index] += f", {row['seconds'][length] / data['systems'][0]['seconds'][length]:.2f}x"
        rows.append(f"| {row['about']} | {' | '.join(cells)} | {row['longest']:,} |")
    return "\n".join([*rows, "", footnote(data)])


def draw(data: dict[str, Any], path: Path) -> None:
    """Plot peaks, and steps where they were timed, against the number of tokens."""
    peaks: Series = {row["system"]: [(float(n), b / 2**20) for n, b in row["peaks"].items()] for row in data["systems"]}
    steps: Series = {
        row["system"]: [(float(n), s) for n, s in row.get("seconds", {}).items()] for row in data["systems"]
    }
    panels = [(peaks, ("tokens", "MiB", "peak above parameters"))]
    draw_panels([*panels, (steps, ("tokens", "seconds", "a step"))] if all(steps.values()) else panels, path)


def main(
    timed: Annotated[bool, typer.Option("--time/--no-time", help="without: steps as on disk")] = True,
) -> None:
    """Predict all peaks, time the steps, and write the results, the table and the plot."""
    made = environment()
    earlier = json.loads(RESULTS.read_text())["systems"] if RESULTS.exists() else []
    times = {row["system"]: row.get("seconds", {}) for row in earlier}
    memory, rows = 0, []
    for name, about in ABOUT.items():
        peaks = {length: peak(name, length) for length in LENGTHS}
        memory = memory or peaks[2048]
        top = longest(peaks, lambda length, name=name: peak(name, length), memory)  # type: ignore[misc]
        by_length = {str(length): bytes_ for length, bytes_ in sorted(peaks.items())}
        rows.append(
            {"system": name, "about": about, "peaks": by_length, "longest": top, "seconds": times.get(name, {})}
        )
        print(rows[-1], flush=True)
    for length in TIMED if timed else ():
        by_system = seconds(length)
        print(length, by_system, flush=True)
        for row in rows:
            row["seconds"][str(length)] = by_system[str(row["system"])]
    data = {**made, "memory": memory, "systems": rows}
    write_text(RESULTS, json.dumps(data, indent=1) + "\n")
    write_text(PAGE, fill(PAGE.read_text(), {"sequences": table(data)}, PAGE.name))
    draw(data, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
