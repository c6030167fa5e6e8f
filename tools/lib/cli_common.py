"""What the command lines share: progress bars, lines for log files, and errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tools.lib.settings import Epoch
from tools.lib.user_errors import UserError


def progress_bar(console: Console) -> Progress:
    """Bars with a free field `state` behind them; nothing where `console` is no terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    shown = (TextColumn("{task.description}"), *columns, TextColumn("{task.fields[state]}"))
    return Progress(*shown, console=console, disable=not console.is_terminal)


def report_epoch(console: Console, progress: Progress, task: TaskID, name: str, epoch: Epoch) -> None:
    """Show an epoch behind the bar of `task`, or as a line of its own where `console` is no terminal."""
    text = f"loss {epoch.train_loss:.4f}  test {100 * epoch.test_accuracy:.2f} %"
    progress.update(task, state=text)
    if not console.is_terminal:
        console.print(f"{name}  epoch {epoch.epoch}  {text}  {epoch.total_seconds:.1f} s", highlight=False)


@contextmanager
def sentences() -> Iterator[None]:
    """Print a UserError as its sentence (exit status 2), and an interruption as what to do next (130)."""
    try:
        yield
    except UserError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        Console(stderr=True).print("Stopped. What trains with checkpoints continues with the same command.")
        raise typer.Exit(130) from error
