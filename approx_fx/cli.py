"""approx-fx: explain, compare, check and view from the command line."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .errors import ApproxFxError, did_you_mean

if TYPE_CHECKING:
    from .report.drawable import Explained

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

TARGET = Annotated[str, typer.Argument(help="package.module:factory or path/file.py:factory")]
BATCH = Annotated[int | None, typer.Option(help="batch size given to the factory")]
BITS = Annotated[str, typer.Option(help="1 to 8, or exact")]
DTYPE = Annotated[str, typer.Option(help="float32, or bfloat16 for autocast")]
GRID = Annotated[str, typer.Option(help="the channel quantizer's grid: gaussian or blpa")]
PEAKS = ("code", "graph")
PEAK = Annotated[
    str,
    typer.Option(
        help="code: the predicted peak is read off Inductor's code for the step and the factory's loss, which takes "
        "half a minute; graph: it is estimated from the model's graph"
    ),
]
AS_JSON = Annotated[bool, typer.Option("--json", help="print JSON")]
DTYPES = ("float32", "bfloat16")
FORMATS = ("html", "svg", "png")
FORMAT = Annotated[str, typer.Option("--format", help="html; svg or png of ribbon and timeline, one file each")]
AGAINST = (
    "systems to compare with, the first for the ratios: compile, eager, budget, checkpoint, checkpoint-eager, "
    "checkpoint-hf, offload, chunked, linear_cross_entropy, fp8, approx_fx+checkpoint, approx_fx+offload, "
    "or approx_fx@B for B bits"
)


@app.command()
def explain(
    target: TARGET,
    batch: BATCH = None,
    bits: BITS = "4",
    dtype: DTYPE = "float32",
    grid: GRID = "gaussian",
    peak: PEAK = "code",
    as_json: AS_JSON = False,
) -> None:
    """What would be saved for backward, before and after; nothing is run."""
    if peak not in PEAKS:
        raise ApproxFxError(f"--peak {peak!r} is not allowed: {' or '.join(PEAKS)}.{did_you_mean(peak, PEAKS)}")
    report = _explained(target, batch, bits, dtype, grid)
    if peak == "code":
        report = _with_code_peak(report, target, batch, bits, dtype, grid)
    print(report.to_json() if as_json else report)


@app.command()
def view(
    target: TARGET,
    batch: BATCH = None,
    bits: BITS = "4",
    dtype: DTYPE = "float32",
    grid: GRID = "gaussian",
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write")] = Path("approx_fx.html"),
    kind: FORMAT = "html",
    as_text: Annotated[bool, typer.Option("--text", help="print it as text instead")] = False,
    as_json: AS_JSON = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="print one chain as a Mermaid flow chart instead")] = False,
    module: Annotated[str | None, typer.Option(help="of the chain for --mermaid; default the first chain")] = None,
    measured: Annotated[bool, typer.Option("--check", help="run a step and show each code's measured error")] = False,
) -> None:
    """Draw what is saved for backward, before and after, as one HTML file; nothing is run, but for --check."""
    if kind not in FORMATS:
        raise ApproxFxError(f"--format {kind!r} is not allowed: {', '.join(FORMATS)}.{did_you_mean(kind, FORMATS)}")
    if as_text + as_json + mermaid > 1:
        raise ApproxFxError("--text, --json and --mermaid print different things: give one of them.")
    if module is not None and not mermaid:
        raise ApproxFxError("--module names the chain that --mermaid prints: give both.")
    report = _explained(target, batch, bits, dtype, grid)
    if measured:
        report = report.with_measured(_checked(target, batch, bits, dtype, grid).values)
    from .report.view import static, text

    if as_text:
        print(text.text(report))
    elif as_json:
        print(json.dumps(text.data(report)))
    elif mermaid:
        print(text.mermaid(report, module), end="")
    else:
        written = [report.save_html(out)] if kind == "html" else static.save(report, out, kind)
        print("\n".join(map(str, written)))


def _explained(target: str, batch: int | None, bits: str, dtype: str, grid: str) -> Explained:
    import dataclasses

    import torch

    from .bench.target import load
    from .explain import explain as explain_model

    checked_dtype = _dtype(dtype)
    loaded = load(target, batch)
    autocast_dtype = torch.bfloat16 if checked_dtype == "bfloat16" else None
    options = {"bits": _bits(bits), "grid": grid}
    try:
        report = explain_model(loaded.model, *loaded.inputs, dtype=autocast_dtype, options=options, **loaded.keywords)
    except ApproxFxError:
        raise
    except Exception as error:  # of the model's own forward, or of an op whose result's size depends on data
        line = (str(error).strip().splitlines() or [""])[0]
        raise ApproxFxError(
            f"{target} cannot be traced on fake tensors, which have no data: {type(error).__name__}: {line} "
            "`approx-fx compare` runs it on real ones."
        ) from error
    about = dataclasses.replace(report.about, model=target, command=shlex.join(["approx-fx", *sys.argv[1:]]))
    return dataclasses.replace(report, about=about)


def _with_code_peak(report: Explained, target: str, batch: int | None, bits: str, dtype: str, grid: str) -> Explained:
    """The report with the peak of Inductor's code; unchanged, with a note, if there is no code of fixed sizes."""
    import dataclasses

    import torch

    from .bench.code_peak import code_peak
    from .bench.target import load, loss_inside

    loaded = load(target, batch)
    model = loss_inside(loaded.model, loaded.loss) if loaded.has_loss else loaded.model
    autocast_dtype = torch.bfloat16 if dtype == "bfloat16" else None
    options = {"bits": _bits(bits), "grid": grid}
    try:
        peaks = code_peak(model, *loaded.inputs, dtype=autocast_dtype, options=options, **loaded.keywords)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"approx-fx: the peak is estimated from the graph: {lines[0]}", file=sys.stderr)
        return report
    return dataclasses.replace(report, code_peak=peaks)


@app.command()
def compare(
    target: TARGET,
    batch: BATCH = None,
    bits: BITS = "4",
    dtype: DTYPE = "float32",
    grid: GRID = "gaussian",
    steps: Annotated[int, typer.Option(help="timed steps of each system")] = 10,
    against: Annotated[str, typer.Option(help=AGAINST)] = "compile",
    compiler: Annotated[str, typer.Option(help="inductor or eager")] = "inductor",
    warm: Annotated[bool, typer.Option("--warm", help="measure a start with a filled cache, too")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Measure one training step against others: time, peak memory, saved bytes, gradients."""
    from .bench.compare import compare as compare_systems
    from .config import Config

    config = Config(bits=_bits(bits), grid=grid, compiler=compiler)
    names = tuple(name.strip() for name in against.split(",") if name.strip())
    console = Console(stderr=True)
    with console.status("starting") as status:
        result = compare_systems(target, batch, config, _dtype(dtype), steps, names, status.update, warm)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _show(result)


@app.command()
def check(
    target: TARGET,
    batch: BATCH = None,
    bits: BITS = "4",
    dtype: DTYPE = "float32",
    as_json: AS_JSON = False,
    plot: Annotated[Path | None, typer.Option(help="draw it, as .png or .svg")] = None,
) -> None:
    """Measure on the target's data how far codes are off, and what that does to each gradient; nothing is trained."""
    result = _checked(target, batch, bits, dtype, "gaussian")
    print(result.to_json() if as_json else result)
    if plot is not None:
        print(result.save_plot(plot), file=sys.stderr)


def _checked(target: str, batch: int | None, bits: str, dtype: str, grid: str) -> Any:
    import torch

    from .bench.check import check as check_model
    from .bench.target import load

    autocast_dtype = torch.bfloat16 if _dtype(dtype) == "bfloat16" else None
    width = _bits(bits)
    if width is None:
        raise ApproxFxError("--bits exact leaves nothing to check: give a whole number from 1 to 8.")
    loaded = load(target, batch)
    settings: Any = {"loss": loaded.loss, "dtype": autocast_dtype, "options": {"bits": width, "grid": grid}}
    return check_model(loaded.model, *loaded.inputs, **settings, **loaded.keywords)


def _show(result: dict[str, Any]) -> None:
    from .report.text import size

    table = Table(title=f"{result['target']}, one step on {result['device']}", title_justify="left")
    for column in ("system", "step", "forward", "backward", "first step", "warm", "peak", "saved"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for name, run in result["runs"].items():
        if "failed" in run:
            table.add_row(name, "failed")
            continue
        table.add_row(
            name, *(f"{run[part] * 1000:.0f} ms" for part in ("step_seconds", "forward_seconds", "backward_seconds")),
            f"{run['compile_seconds']:.1f} s", f"{run['warm_seconds']:.1f} s" if "warm_seconds" in run else "",
            size(run["peak_bytes"]), size(run["saved_bytes"]),
        )  # fmt: skip
    ratio, gradient = result["ratio"], result["gradient"]
    Console().print(table)
    for run in result["runs"].values():
        if "failed" in run:
            print(f"failed: {run['failed']}")
    print(
        f"against {result['against']}: step {ratio['step']:.2f}x, compile {ratio['compile']:.2f}x (lower is better); "
        f"peak {ratio['peak']:.1f}x, saved {ratio['saved']:.1f}x smaller\n"
        f"gradient cosine {gradient['cosine']:.4f}, relative error {gradient['relative_error']:.3f}; "
        f"loss {'equal bit for bit' if result['loss_equal'] else 'NOT equal'}"
    )


def _bits(text: str) -> int | None:
    if text.lower() in ("exact", "none"):
        return None
    if not text.lstrip("-").isdigit():
        raise ApproxFxError(
            f"--bits {text!r} is not allowed: a whole number from 1 to 8, or exact.{did_you_mean(text, ['exact'])}"
        )
    return int(text)


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise ApproxFxError(f"--dtype {text!r} is not allowed: float32 or bfloat16.{did_you_mean(text, DTYPES)}")
    return text


def main() -> None:
    """Entry point. An ApproxFxError is printed as one sentence, with exit status 2."""
    try:
        app()
    except ApproxFxError as error:
        print(f"approx-fx: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
