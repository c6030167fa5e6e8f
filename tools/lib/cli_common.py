"""Code shared by the command lines: progress bars, lines for log files, errors printed as sentences."""

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
    """Progress bars with a text field `state` after each; disabled if `console` is not a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    all_columns = (TextColumn("{task.description}"), *columns, TextColumn("{task.fields[state]}"))
    return Progress(*all_columns, console=console, disable=not console.is_terminal)


def report_epoch(console: Console, progress: Progress, task: TaskID, name: str, epoch: Epoch) -> None:
    """Show an epoch's results after the bar of `task`, or as a printed line if `console` is not a terminal."""
    text = f"loss {epoch.train_loss:.4f}  test {100 * epoch.test_accuracy:.2f} %"
    progress.update(task, state=text)
    if not console.is_terminal:
        console.print(f"{name}  epoch {epoch.epoch}  {text}  {epoch.total_seconds:.1f} s", highlight=False)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Print a UserError as one sentence and exit with status 2; on Ctrl-C say how to continue and exit with 130."""
    try:
        yield
    except UserError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {error}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        Console(stderr=True).print("Stopped. What trains with checkpoints continues with the same command.")
        raise typer.Exit(130) from error
