"""Measured means and tables as Markdown."""

from collections.abc import Mapping


def mean(found: Mapping[str, float] | None) -> str:
    """Show a mean and its interval; nothing of nothing."""
    if found is None:
        return ""
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def change(found: Mapping[str, float] | None) -> str:
    """Show a difference and its interval, with signs; nothing of nothing."""
    if found is None:
        return ""
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lay out the lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
