"""Keep the figures of the overlap in ``docs/results`` and write ``docs/overlap.md`` from them.

The page is a function of the JSON file; a test compares the two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cones.record import write_json, write_text

RESULTS, PAGE = "results/overlap.json", "overlap.md"
SAID = {
    "subjects": "two subjects, searched apart",
    "again": "one subject, two seeds",
    "joint": "union of two and their joint search",
    "union_again": "the union, two seeds",
    "joint_again": "the joint search, two seeds",
}
COLUMNS = ("jaccard", "expected", "random", "within_rows", "within_sizes", "share")


def record(found: Mapping[str, Any], docs: Path | str) -> None:
    """Write the figures and the page into the folder ``docs``."""
    write_json(Path(docs) / RESULTS, found)
    write_text(Path(docs) / PAGE, markdown(found))


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    summary, computer = found["summary"], found["machine"]
    head = ["", "shared, of the union", "chance: per layer", "drawn so", "per row", "per size"]
    rows = [
        [SAID[what], *(_interval(summary[what][name]) for name in COLUMNS)]
        for what in SAID
        if what in summary
    ]
    words = ", ".join(f"{name.replace('_', ' ')} {word}" for name, word in found["words"].items())
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    lines = [
        "# Are concept neurons disentangled?",
        "",
        f"Written by `cones bench overlap` from [{RESULTS}]({RESULTS}); do not edit. The paper",
        "reports 2.42 % shared by two subjects, and 53.27 % in common between joining two",
        "searches and searching both at once, for one pair and one layer (Sec. 3.3, Fig. 4).",
        "",
        "All columns but the last are parts of a union (Jaccard), mean and 95 % interval. Chance",
        "keeps the number of neurons of both masks in every layer; in every row of a layer; or",
        "among the weights of a layer that are of like size (tenths by absolute value). What is",
        "shared beyond those is not explained by where, or among which sizes, neurons lie. The",
        "last column is the shared part of the first mask. A joint search has as many neurons as",
        "the union beside it. The same subject with another seed says how far a search agrees",
        "with itself.",
        "",
        *_table([*head, "shared, of the first"], rows),
        "",
        f"{len(found['words'])} subjects ({words}), seeds "
        f"{', '.join(str(seed) for seed in found['seeds'])}.",
        "",
        *_table(
            ["", "seeds", "first", "second", "shared", "of the union", "expected", "z"],
            [_row(row) for row in found["rows"]],
        ),
        "",
        f"Measured with the model `{found['model']}` on {computer['processor']}, "
        f"{computer['threads']} threads, torch {computer['torch']}. Settings: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _row(row: Mapping[str, Any]) -> list[str]:
    z = "" if row["z"] is None else f"{row['z']:+.1f}"
    return [
        f"{row['of'].replace('_', ' ')}: {SAID[row['what']]}",
        ", ".join(str(seed) for seed in row["seeds"]),
        f"{row['first']:,}",
        f"{row['second']:,}",
        f"{row['shared']:,}",
        f"{row['jaccard']:.2%}",
        f"{row['expected']:,.0f} ± {row['deviation']:.0f}",
        z,
    ]


def _interval(found: Mapping[str, float]) -> str:
    if found["n"] == 1:
        return f"{found['mean']:.2%}"
    return f"{found['mean']:.2%} [{found['low']:.2%}, {found['high']:.2%}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
