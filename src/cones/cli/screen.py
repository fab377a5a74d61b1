"""What the user sees: bars with the time left, results, notices, and errors in one line."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cones.errors import ConesError

Notify = Callable[[str, int, int, float | None], None]
output = Console(highlight=False)
notices = Console(stderr=True, highlight=False)
INTERRUPTED = 130


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors of the library and of the disk into one line and exit code 1."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except ConesError as error:
            _fail(str(error))
        except OSError as error:  # disk full, no permission
            _fail(f"{error}; nothing incomplete was left behind; free the disk or write elsewhere")

    return run


def _fail(message: str) -> None:
    notices.print(f"[red]error:[/red] {_plain(message)}", soft_wrap=True)
    raise typer.Exit(1)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def warn(message: str) -> None:
    """Say what is probably not meant, and go on."""
    notices.print(f"[yellow]warning:[/yellow] {_plain(message)}", soft_wrap=True)


def say(message: str) -> None:
    """Say what happened."""
    notices.print(_plain(message), soft_wrap=True)


def tell(message: str) -> None:
    """Print a result for people."""
    output.print(message, markup=False, soft_wrap=True)


def emit(data: Any) -> None:
    """Print what a program wants, as JSON on the output."""
    typer.echo(json.dumps(data, indent=1))


@contextmanager
def bars() -> Iterator[Notify]:
    """Show one bar per stage; yields what is told stage, steps done, steps in all and loss."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=notices, transient=False) as progress:
        tasks: dict[str, Any] = {}

        def notify(stage: str, step: int, steps: int, loss: float | None) -> None:
            said = "" if loss is None else f"loss {loss:.4f}"
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=steps, loss=said)
            progress.update(tasks[stage], completed=step, total=steps, loss=said)

        yield notify


@contextmanager
def resumable(hint: str) -> Iterator[None]:
    """Say after Ctrl-C what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; {hint}")
        raise typer.Exit(INTERRUPTED) from None
