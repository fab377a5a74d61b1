"""Keep figures in ``docs/results/precision.json`` and write ``docs/precision.md`` from them.

As with the search's page, a figure can only be changed by measuring it again: the page is a
function of the JSON file, and a test compares the two.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cones.bench.precision import LEARNT, REFERENCES, SIDES
from cones.bench.tables import NAMES, footer, listed, shown, table
from cones.record import write_json, write_text

RESULTS, PAGE = "results/precision.json", "precision.md"
CALLED = {
    "untouched": "untouched model",
    "shut": "shut (the paper's binary)",
    "binary": "binary, learnt",
    "random": "float32 at random positions",
}
BITS = {"shut": "0", "float32": "32", "float16": "16", "quaternary": "2", "binary": "1"}
BITS["random"] = BITS["float32"]


def record(figures: Mapping[str, Any], docs: Path | str) -> None:
    """Write the results file and the page anew.

    Args:
        figures: From :func:`cones.bench.precision.precision_figures`.
        docs: The folder ``docs``.
    """
    write_json(Path(docs) / RESULTS, figures)
    write_text(Path(docs) / PAGE, markdown(figures))


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    training, summary = found["training"], found["summary"]
    lines = [
        "# Does the precision of the values matter?",
        "",
        f"Written by `cones bench precision` from [{RESULTS}]({RESULTS}); do not edit.",
        "",
        "The paper reports close results for concept neurons whose values are optimised in",
        "float32, float16, quaternary and binary, binary being shutting without any training",
        "(Fig. 3). It gives no levels; here quaternary is four levels, ±s and ±s/3, and binary",
        "is two, ±s, with a learnt scale s for each parameter.",
        "",
        f"{_counted(found['subjects'])} ({listed(found['subjects'])}), seeds "
        f"{listed(found['seeds'])}; {summary['density']:.2%} of the key and value weights. Values "
        f"are learnt by {training['steps']} updates of AdamW at a rate of {training['rate']:g}, "
        "everything else frozen, and measured on held-out samples. Differences are paired (same "
        "subject, seed, samples and noise), with the 95 % interval of a bootstrap over subjects "
        "and their seeds. The random positions are as many in every parameter as the concept's.",
        "",
        "## Means",
        "",
        *_means(summary["means"]),
        "",
    ]
    for figure in summary["means"]["shut"]:
        if figure != "bytes":
            lines += [f"## Differences: {NAMES[figure]}", ""]
            lines += [*_differences(summary["differences"], figure), ""]
    return "\n".join([*lines, *_pictures(found), *footer({**found, "pictures": None})])


def _counted(subjects: list[str]) -> str:
    return f"{len(subjects)} subject{'s' * (len(subjects) > 1)}"


def _means(means: Mapping[str, Any]) -> list[str]:
    figures = list(means["untouched"])
    rows = []
    for side in SIDES:
        size = f"{means[side]['bytes']['mean'] / 1000:.1f} kB" if "bytes" in means[side] else ""
        cells = [f"{means[side][figure]['mean']:.4f}" for figure in figures]
        rows.append([CALLED.get(side, side), BITS.get(side, ""), *cells, size])
    head = ["values", "bits a value", *(NAMES[figure] for figure in figures), "file"]
    return table(head, rows)


def _differences(differences: Mapping[str, Any], figure: str) -> list[str]:
    rows = []
    for side in ("shut", *LEARNT):
        cells = [
            shown(differences[reference][side][figure]) if side != reference else ""
            for reference in REFERENCES
        ]
        rows.append([CALLED.get(side, side), *cells])
    return table(["values", *(f"- {CALLED.get(name, name)}" for name in REFERENCES)], rows)


def _pictures(found: Mapping[str, Any]) -> list[str]:
    if not found["pictures"]:
        return []
    drawn = found["pictures"]
    prompts = ", ".join(f"`{prompt.replace('{}', 'V* noun')}`" for prompt in drawn["prompts"])
    return [
        f"Pictures: {drawn['count']} of each of {prompts}; {drawn['steps']} steps, guidance "
        f"{drawn['guidance']}, the same noise for all."
    ]
