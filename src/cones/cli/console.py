"""What a person sees beside results: progress, notices, and errors in one line.

Results go to the output; progress, notices and errors to the error stream, so that ``--json`` can
be piped. On a terminal progress is a bar a stage; elsewhere it is one line every 30 seconds.
Exit codes: 0 done, 1 error, 2 wrong usage, 3 the certificate refuses, 130 stopped by Ctrl-C.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic as clock
from typing import TypeAlias

import typer
from rich import progress as rich
from rich.console import Console
from rich.markup import escape

from cones.errors import ConesError

Notify: TypeAlias = Callable[..., None]  # stage, done, total, note=""
NOTICES = Console(stderr=True, highlight=False, emoji=False)
FAILED, REFUSED = 1, 3
LINE_EVERY = 30.0  # seconds between two lines where there is no terminal


def say(message: str) -> None:
    """Print a notice."""
    NOTICES.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print what is probably not meant, and go on."""
    NOTICES.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


@contextmanager
def guarded() -> Iterator[None]:
    """Turn warnings, and errors of the library and of the disk, into one line."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: warn(str(message))
            yield
    except (ConesError, OSError) as error:
        advice = "; expected a path that can be read and written, with space left; choose another"
        told = f"{error}{advice if isinstance(error, OSError) else ''}"
        NOTICES.print(f"[red]error:[/] {escape(told)}", soft_wrap=True)
        raise typer.Exit(FAILED) from None


@contextmanager
def progress(kept: str = "") -> Iterator[Notify]:
    """Yield the function that reports progress; after Ctrl-C say what is kept, if anything."""
    columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
    stage, note = "{task.description:<12}", rich.TextColumn("{task.fields[note]}", markup=False)
    shown, last = NOTICES.is_terminal, clock()
    bars = rich.Progress(stage, *columns, note, console=NOTICES, disable=not shown)
    tasks: dict[str, rich.TaskID] = {}

    def notify(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, note=note)
        bars.update(tasks[stage], completed=done, total=total, note=note)
        if not shown and clock() - last >= LINE_EVERY:
            last = clock()
            say(f"{stage} {done}/{total} {note}".rstrip())

    try:
        with bars:
            yield notify
    except KeyboardInterrupt:
        if kept:
            say(f"{kept}; run the same command to go on")
        raise
