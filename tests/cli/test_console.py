"""Progress on a terminal and in a pipe, and errors in one line."""

import io

import pytest
import typer
from rich.console import Console

from cones.cli import console
from cones.errors import ConesError


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(console, "NOTICES", Console(file=stream, force_terminal=False, width=200))
    return stream


def test_where_there_is_no_terminal_progress_is_a_line_every_30_seconds(
    notices: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console, "clock", lambda: now[0])
    with console.progress() as progress:
        for second in range(95):
            now[0] = float(second)
            progress("refine", second, 300, "loss 0.5")
    said = notices.getvalue().splitlines()
    assert said == [f"refine {s}/300 loss 0.5" for s in (30, 60, 90)]


def test_on_a_terminal_progress_is_a_bar_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "NOTICES", Console(file=stream, force_terminal=True, width=99))
    with console.progress() as progress:
        progress("prior", 1, 2)
        progress("refine", 3, 4, "[loss] 0.5")
    said = stream.getvalue()
    assert all(text in said for text in ("prior", "1/2", "refine", "3/4", "[loss] 0.5"))


def test_bars_end_with_an_exception() -> None:
    def stopped() -> None:
        with console.progress() as progress:
            progress("refine", 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with console.progress() as progress:  # a second live display would be refused
        progress("refine", 1, 2)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConesError("found [a]; expected [b]; do [c]"), "error: found [a]; expected [b]; do"),
        (OSError(28, "No space left on device"), "No space left on device; expected a path"),
    ],
)
def test_errors_are_one_line(error: Exception, said: str, notices: io.StringIO) -> None:
    with pytest.raises(typer.Exit) as caught, console.guarded():
        raise error
    assert caught.value.exit_code == 1
    assert said in notices.getvalue()
    assert notices.getvalue().count("\n") == 1
