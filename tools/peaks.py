"""Measures the peak of a language model's step, its loss included, beside torch.compile's.

    python tools/peaks.py          all models, a quarter of an hour on two cores; --model NAME for one of them

float32, Inductor, 4 bits, on a CPU; what is compiled returns the loss alone, or torch.compile would keep the logits.
Both are in one process and take turns while they are timed. Results go to docs/results/peaks.json and into the table of
docs/language_models.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

if __name__ == "__main__":
    import lib.repo_path  # type: ignore[import-not-found]  # noqa: F401

import torch
import typer
from torch import Tensor, nn

import approx_fx
from approx_fx.bench.code_peak import code_peak
from approx_fx.bench.live_bytes import peak_bytes
from approx_fx.bench.target import load, loss_inside
from tools.lib.checkpoint import write_text
from tools.lib.markdown_tables import fill
from tools.lib.measuring.environment import environment, footnote
from tools.lib.measuring.turns import median_seconds
from tools.lib.repo_path import ROOT
from tools.lib.torchvision_import import import_torchvision

RESULTS = ROOT / "docs" / "results" / "peaks.json"
PAGE = ROOT / "docs" / "language_models.md"
STEPS = 5
Labelled = tuple[nn.Module, dict[str, Tensor], Callable[[Any], Tensor]]


def _labelled(model: str, config: str, words: int, **options: Any) -> Labelled:
    """A model of transformers with its loss by `labels=`, and 16 x 128 tokens."""
    import_torchvision()
    import transformers

    tokens = torch.randint(words, (16, 128))
    made = getattr(transformers, model)(getattr(transformers, config)(vocab_size=words, **options))
    return made, {"input_ids": tokens, "labels": tokens}, lambda output: output.loss


def llama() -> Labelled:
    """Grouped heads, SwiGLU, a head of its own."""
    return _labelled(
        "LlamaForCausalLM", "LlamaConfig", 16384, hidden_size=128, intermediate_size=344, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, use_cache=False,
    )  # fmt: skip


def gpt2() -> Labelled:
    """The head's weight is the embedding's; with dropout."""
    return _labelled(
        "GPT2LMHeadModel", "GPT2Config", 16384, n_embd=128, n_layer=2, n_head=4, n_positions=128, use_cache=False
    )


def bert() -> Labelled:
    """Masked language modelling, a head with a bias."""
    return _labelled(
        "BertForMaskedLM", "BertConfig", 30522, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=1024,
    )  # fmt: skip


def t5() -> Labelled:
    """An encoder and a decoder."""
    return _labelled(
        "T5ForConditionalGeneration", "T5Config", 30522, d_model=256, d_kv=64, d_ff=1024, num_layers=4, num_heads=4,
        use_cache=False, decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip


def gpt_small() -> Labelled:
    """GPT-2 small with the loss in its graph; the head's weight is the embedding's."""
    loaded = load("models.gpt:gpt_small", 4)
    return loss_inside(loaded.model, loaded.loss), {"tokens": loaded.inputs[0]}, lambda loss: loss


MODELS: dict[str, tuple[Callable[[], Labelled], str]] = {
    "llama": (llama, "Llama, 2 x 128, 16,384 words, 16 x 128 tokens"),
    "gpt2": (gpt2, "GPT-2, 2 x 128, 16,384 words, 16 x 128 tokens"),
    "bert": (bert, "BERT MLM, 4 x 256, 30,522 words, 16 x 128 tokens"),
    "t5": (t5, "T5, 4 x 256, 30,522 words, 16 x 128 tokens"),
    "gpt_small": (gpt_small, "GPT, 12 x 768, 50,257 words, 4 x 256 tokens"),
}


def measured(name: str) -> dict[str, Any]:
    """Peaks, step times and loss of a model, by torch.compile and in 4 bits."""
    steps: dict[str, Callable[[], Tensor]] = {}
    losses, peaks, models = {}, {}, {}
    for system in ("compile", "approx_fx"):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model, inputs, loss = MODELS[name][0]()
        model = loss_inside(model, loss)
        model.compile() if system == "compile" else approx_fx.convert(model, bits=4, check=None)

        def step(model: nn.Module = model, inputs: Any = inputs) -> Tensor:
            model.zero_grad(set_to_none=True)
            value: Tensor = model(**inputs)
            value.backward()
            return value.detach()

        torch.manual_seed(1)
        losses[system] = float(step())
        step()
        model.zero_grad(set_to_none=True)
        peaks[system] = peak_bytes(step)
        steps[system], models[system] = step, model
    report = approx_fx.report(models["approx_fx"])
    seconds = median_seconds(steps, STEPS)
    model, inputs, loss = MODELS[name][0]()
    predicted = code_peak(loss_inside(model, loss), options={"bits": 4}, **inputs)  # type: ignore[arg-type]
    return {
        "model": name, "peak": peaks, "seconds": seconds, "loss": losses,
        "predicted": predicted, "losses": [text for g in report.graphs for text in g.losses],
    }  # fmt: skip


def table(results: list[dict[str, Any]], made: dict[str, Any]) -> str:
    """The table of docs/language_models.md."""
    rows = ["| model | torch.compile's peak, predicted | peak, predicted | ratio | step | loss, relative difference |"]
    rows.append("|---|---|---|---|---|---|")
    for result in results:
        before, after = result["peak"]["compile"], result["peak"]["approx_fx"]
        exact, ours = result["loss"]["compile"], result["loss"]["approx_fx"]
        rows.append(
            f"| {MODELS[result['model']][1]} | {before / 2**20:.1f} MiB, {result['predicted']['before'] / 2**20:.1f} | "
            f"{after / 2**20:.1f} MiB, {result['predicted']['after'] / 2**20:.1f} | {before / after:.1f}x | "
            f"{result['seconds']['approx_fx'] / result['seconds']['compile']:.2f}x | {abs(ours - exact) / exact:.0e} |"
        )
    return "\n".join([*rows, "", footnote(made)])


def main(
    model: Annotated[list[str] | None, typer.Option(help="names of models; default all")] = None,
    one: Annotated[str, typer.Option(help="measure this model in this process", hidden=True)] = "",
) -> None:
    """Measure each model in a process of its own; write docs/results/peaks.json and the table if all are measured."""
    if one:
        print(json.dumps(measured(one)))
        return
    results = []
    for name in model or MODELS:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--one", name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(results[-1], flush=True)
    if model is None:
        made = environment()
        write_text(RESULTS, json.dumps({**made, "models": results}, indent=1) + "\n")
        write_text(PAGE, fill(PAGE.read_text(), {"peaks": table(results, made)}, PAGE.name))


if __name__ == "__main__":
    typer.run(main)
