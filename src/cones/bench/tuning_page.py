"""The part of docs/reproduction.md that says how rates and density were chosen."""

from collections.abc import Mapping
from typing import Any

from cones.bench.markdown import markdown


def tuning_section(found: Mapping[str, Any], shown: Mapping[str, str]) -> list[str]:
    """Show a grid and what was chosen.

    Args:
        found: What :func:`cones.bench.tuning.tuning_figures` gave.
        shown: Score -> its name for people.

    Returns:
        Lines of Markdown.
    """
    groups = found["plan"]["groups"]
    together = max(map(len, groups)) > 1
    own = [f"{found['untouched'][score]:.3f}" for score in found["weighed"]]
    rows = [["`untouched`", "", *own, ""], *(_row(found, row) for row in found["grid"])]
    names = ", ".join("+".join(group) for group in groups).replace("_", " ")
    fixed = "; ".join(
        f"{method} {', '.join(f'{k} {_value(v)}' for k, v in each.items())}"
        for method, each in found["fixed"].items()
        if each
    )
    title = "### Several subjects" if together else "## How rates and density were chosen"
    return [
        title,
        "",
        f"On the tuning subjects {names}, which are in no other table, with other prompts:",
        f"the highest image alignment among the settings that keep {found['kept']:.0%} of the",
        "untouched model's text alignment; where none does, the one that keeps most.",
        *(() if together else ("Every search above has the density of `cones`.",)),
        f"Fixed: {fixed}.",
        "",
        *markdown(["method", "setting", *(shown[n] for n in found["weighed"]), ""], rows),
    ]


def _row(found: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    name = next(key for key in row if key not in ("method", "scores"))
    best = found["best"][row["method"]][name] == row[name]
    scored = [f"{row['scores'][score]:.3f}" for score in found["weighed"]]
    return [f"`{row['method']}`", f"{name} {_value(row[name])}", *scored, "chosen" * best]


def _value(value: bool | float) -> str:
    """Show the value of a setting."""
    return ("off", "on")[value] if isinstance(value, bool) else f"{value:g}"
