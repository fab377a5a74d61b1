"""What a person sees: progress, results, warnings, and errors in one line.

Results go to the output; progress, notices and errors to the error stream, so that ``--json`` can
be piped. On a terminal progress is a bar a stage; elsewhere it is one line every 30 seconds.
Exit codes: 0 done, 1 error, 2 wrong usage, 3 the certificate refuses, 130 stopped by Ctrl-C.
"""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic as clock
from typing import Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from cones.errors import ConesError

OUTPUT = Console(highlight=False)
NOTICES = Console(stderr=True, highlight=False)
FAILED, REFUSED, INTERRUPTED = 1, 3, 130
LINE_EVERY = 30.0  # seconds between two lines where there is no terminal


@runtime_checkable
class Notify(Protocol):
    """How the library reports progress."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say that ``done`` of ``total`` steps of ``stage`` are done."""
        ...


def tell(message: object) -> None:
    """Print a result."""
    OUTPUT.print(str(message), markup=False, soft_wrap=True)


def tell_json(data: object) -> None:
    """Print a result as JSON."""
    OUTPUT.print(json.dumps(data, indent=1), markup=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a notice."""
    NOTICES.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print what is probably not meant, and go on."""
    NOTICES.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def suggest(*words: str | Path) -> None:
    """Print the command that comes next, ready to be pasted into a shell."""
    tell(f"next:  {shlex.join(str(word) for word in words)}")


@contextmanager
def guarded() -> Iterator[None]:
    """Turn errors of the library and of the disk into one line, and Ctrl-C into its exit code."""
    try:
        yield
    except (ConesError, OSError) as error:
        NOTICES.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        say("stopped")
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def resumable(kept: str) -> Iterator[None]:
    """Say after Ctrl-C what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"{kept}; run the same command to go on")
        raise


@contextmanager
def progress() -> Iterator[Notify]:
    """Yield the function that reports progress; the bars end with the block."""
    if not NOTICES.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=NOTICES) as bars:
        yield _bars(bars)


def _bars(bars: Progress) -> Notify:
    tasks: dict[str, TaskID] = {}

    def notify(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, note=note)
        bars.update(tasks[stage], completed=done, total=total, note=note)

    return notify


def _lines() -> Notify:
    last = clock()

    def notify(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if clock() - last >= LINE_EVERY:
            last = clock()
            say(f"{stage} {done}/{total} {note}".rstrip())

    return notify
