"""Keep figures in ``docs/results/search.json`` and write ``docs/search.md`` from them.

The page is a function of the JSON file, and a test compares the two: a figure can only be changed
by measuring it again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cones.errors import SearchError
from cones.record import write_json, write_text

RESULTS, PAGE = "results/search.json", "search.md"
PARTS = ("search", "strangers", "rules")
SIDES_OF_STRANGERS = ("own", "strangers", "own_minus_strangers")
NAMES = {
    "subject": "subject loss",
    "prior": "prior loss",
    "loss": "both (Eq. 4)",
    "image_alignment": "image alignment (judge)",
    "text_alignment": "text alignment (own CLIP)",
}


def record(part: str, figures: Mapping[str, Any], docs: Path | str) -> None:
    """Put one part into the results file and write the page anew.

    Args:
        part: ``search``, ``strangers`` or ``rules``.
        figures: From the function of that name in :mod:`cones.bench`.
        docs: The folder ``docs``.

    Raises:
        SearchError: There is no such part.
    """
    if part not in PARTS:
        raise SearchError(f"found part {part!r}; expected one of {', '.join(PARTS)}; choose one")
    docs = Path(docs)
    path = docs / RESULTS
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    known = {**known, part: dict(figures)}
    write_json(path, {name: known[name] for name in PARTS if name in known})
    write_text(docs / PAGE, markdown(known))


def markdown(results: Mapping[str, Any]) -> str:
    """Write the page that quotes ``results``."""
    lines = [
        "# Does the search work?",
        "",
        f"Written by `cones bench` from [{RESULTS}]({RESULTS}); do not edit. Losses are those of",
        "held-out samples that no search used; every difference is paired (same subject, seed,",
        "samples and noise), with the 95 % interval of a bootstrap over subjects and their seeds.",
        "",
    ]
    if "search" in results:
        lines += _search(results["search"])
    if "strangers" in results:
        lines += _strangers(results["strangers"])
    if "rules" in results:
        lines += _rules(results["rules"])
    return "\n".join(lines)


def _search(found: Mapping[str, Any]) -> list[str]:
    summary = found["summary"]
    lines = ["## Every subject beside both controls", "", *_wins(summary, found), ""]
    head = ["", "untouched", "shut", "random", "shut - untouched", "shut - random"]
    rows = []
    for name in summary["means"]["shut"]:
        means = [f"{summary['means'][side][name]['mean']:.4f}" for side in head[1:4]]
        changes = [
            shown(summary["differences"][f"shut_minus_{side}"][name])
            for side in ("untouched", "random")
        ]
        rows.append([NAMES.get(name, name), *means, *changes])
    return [*lines, *table(head, rows), "", *_subjects(found["rows"]), *footer(found)]


def _wins(summary: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = [f"{len(found['subjects'])} subjects, seeds {listed(found['seeds'])}:", ""]
    for side in ("untouched", "random"):
        wins = summary["wins"][f"shut_below_{side}"]
        other = "the untouched model" if side == "untouched" else "the random mask"
        lines.append(
            f"- subject loss below that of {other} for {wins['subjects']} of "
            f"{wins['of_subjects']} subjects ({wins['pairs']} of {wins['of_pairs']} searches)"
        )
    return lines


def _subjects(rows: list[Mapping[str, Any]]) -> list[str]:
    head = ["subject", "seed", "density", "untouched", "shut", "random", "prior: untouched"]
    head += ["prior: shut"]
    judged = all("image_alignment" in row["shut"] for row in rows)
    if judged:
        head += ["judge: untouched", "judge: shut", "judge: random"]
    lines = []
    for row in rows:
        cells = [row["subject"].replace("_", " "), str(row["seed"]), f"{row['density']:.2%}"]
        cells += [f"{row[side]['subject']:.4f}" for side in ("untouched", "shut", "random")]
        cells += [f"{row[side]['prior']:.4f}" for side in ("untouched", "shut")]
        if judged:
            sides = ("untouched", "shut", "random")
            cells += [f"{row[side]['image_alignment']:.3f}" for side in sides]
        lines.append(cells)
    return [*table(head, lines), ""]


def _strangers(found: Mapping[str, Any]) -> list[str]:
    summary = found["summary"]
    lines = [
        "## Is a concept its subject's own?",
        "",
        f"Every subject's held-out loss with the concept of each of the {len(found['subjects'])} "
        f"subjects shut, seeds {listed(found['seeds'])}. By subject loss, its own concept "
        f"is on average number {summary['rank']:.1f} among all (by chance "
        f"{summary['chance']:.1f}); it is the best in {summary['best']} of {summary['of']} cases.",
        "",
    ]
    head = ["change from untouched", "own concept", "another's", "own - another's"]
    rows = [
        [NAMES[name], *(shown(summary[name][side]) for side in SIDES_OF_STRANGERS)]
        for name in ("subject", "prior", "loss")
    ]
    return [*lines, *table(head, rows), "", *footer(found)]


def _rules(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## The rules at one density ({found['density']:.2%})",
        "",
        f"{len(found['subjects'])} subjects ({listed(found['subjects'])}), seeds "
        f"{listed(found['seeds'])}. All rules took the same number of gradients: those that do "
        "not refine spent the refinement's on scoring. The best change of the loss comes first.",
        "",
    ]
    head = ["rule", "subject: untouched", "shut", "prior: untouched", "shut"]
    head += ["change of subject", "change of prior", "change of both", "seconds"]
    rows = []
    for rule, figures in found["table"].items():
        before, after, change = figures["untouched"], figures["shut"], figures["change"]
        losses = [f"{f[name]:.4f}" for name in ("subject", "prior") for f in (before, after)]
        changes = [shown(change[name]) for name in ("subject", "prior", "loss")]
        rows.append([f"`{rule}`", *losses, *changes, f"{figures['seconds']:.0f}"])
    return [*lines, *table(head, rows), "", *footer(found)]


def footer(found: Mapping[str, Any]) -> list[str]:
    """Say with what the figures were measured."""
    computer = found["machine"]
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    model = f" with the model `{found['model']}`" if "model" in found else ""
    lines = [
        f"Measured{model} on {computer['processor']}, {computer['threads']} threads, torch "
        f"{computer['torch']}. Settings: {settings}.",
        "",
    ]
    if found.get("pictures"):
        drawn = found["pictures"]
        prompts = ", ".join(f"`{prompt.replace('{}', 'V* noun')}`" for prompt in drawn["prompts"])
        lines[1:1] = [
            f"Pictures: {drawn['count']} of each of {prompts}; {drawn['steps']} steps, guidance "
            f"{drawn['guidance']}, the same noise for all three."
        ]
    seconds = found.get("summary", {}).get("seconds", {})
    if seconds:
        said = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
        lines[-1:-1] = [f"Mean time: {said}."]
    return lines


def shown(found: Mapping[str, float]) -> str:
    """Write a difference with its interval."""
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def listed(values: list) -> str:
    """Write names or numbers in a sentence."""
    return ", ".join(str(value).replace("_", " ") for value in values)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Write a table, a line a row."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
