"""Keep the conflicts in ``docs/results``, draw them, and write ``docs/conflicts.md`` from them.

The page is a function of the JSON file; a test compares the two. Its first sentence is chosen by
the figures, so that a prediction that fails is said to fail.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cones.bench.conflicts import FIGURES, OUTCOMES
from cones.plot import scatter_picture
from cones.record import write_json, write_text

RESULTS, PAGE, PLOT = "results/conflicts.json", "conflicts.md", "conflicts.png"
SAID = {
    "rise": "rise of the loss by the other's neurons",
    "beyond_random": "beyond what random neurons do",
    "random": "rise of the loss by random neurons",
    "rows": "crowding of rows",
    "columns": "crowding of columns",
    "layers": "crowding of layers",
    "jaccard": "shared, of the union",
}
CLEAR = 0.05


def record(found: Mapping[str, Any], docs: Path | str) -> None:
    """Write figures, plot and page into the folder ``docs``."""
    write_json(Path(docs) / RESULTS, found)
    plot(found, Path(docs) / PLOT)
    write_text(Path(docs) / PAGE, markdown(found))


def plot(found: Mapping[str, Any], path: Path | str) -> None:
    """Draw measured against predicted, a point a pair, with the correlation above each field."""
    fields = {}
    for outcome in ("rise", "beyond_random"):
        title = f"{SAID[outcome]}\nSpearman {_rho(found['summary'], outcome, 'rows')}"
        fields[title] = [(100 * pair["rows"], pair[outcome]) for pair in found["pairs"]]
    scatter_picture(
        fields,
        path,
        across="predicted: share of a neuron's row that the other shuts too, %",
        up="measured: change of the subject's loss",
        settings={"model": found["model"], "pairs": len(found["pairs"])},
    )


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    summary, computer = found["summary"], found["machine"]
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    names = [name.replace("_", " ") for name in found["subjects"]]
    correlations = [
        [SAID[name], *(_rho(summary, outcome, name) for outcome in OUTCOMES)] for name in FIGURES
    ]
    changes = [[SAID[key], _signed(summary[key])] for key in OUTCOMES]
    worst = sorted(found["pairs"], key=lambda pair: -pair["beyond_random"])
    lines = [
        "# Can a conflict of two concepts be predicted from their files?",
        "",
        f"Written by `cones bench conflicts` from [{RESULTS}]({RESULTS}); do not edit.",
        "",
        *_result(summary),
        "",
        f"![measured against predicted conflict]({PLOT})",
        "",
        "Predicted, by `cones conflicts` without photos: over the neurons of one concept, the",
        "mean share of their row that the other shuts in addition (a row adds up to one number of",
        "a key or value; columns and whole layers are given beside them). Measured: the loss of a",
        "subject's photos with its own neurons shut, with those of both, and with its own and as",
        "many random ones in every layer as the other has; on the same held-out samples. Both",
        "directions of a pair are averaged.",
        "",
        *_table(["change of the subject's loss", "mean, 95 % interval"], changes),
        "",
        f"A subject's own neurons change its loss by {_signed(summary['gain'])}. Intervals are",
        "over subjects.",
        "",
        "Spearman's rank correlation of prediction (rows) and measurement (columns); interval by",
        "a bootstrap over subjects, p by renaming the subjects on one side (Mantel):",
        "",
        *_table(["", *(SAID[outcome] for outcome in OUTCOMES)], correlations),
        "",
        "Twelve tests stand in this table: some small p is to be expected by chance.",
        "",
        "The pairs that harm each other most, and least:",
        "",
        *_table(
            ["", "shared", "by chance", SAID["rows"], SAID["rise"], SAID["beyond_random"]],
            [_row(pair) for pair in (worst if len(worst) <= 10 else [*worst[:5], *worst[-5:]])],
        ),
        "",
        f"{len(names)} subjects ({', '.join(names)}), {found['samples']} held-out samples.",
        f"Measured with the model `{found['model']}` on {computer['processor']}, "
        f"{computer['threads']} threads, torch {computer['torch']}. Settings: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _result(summary: Mapping[str, Any]) -> list[str]:
    """Say the result, whatever it is."""
    specific = summary["correlations"]["beyond_random"]["rows"]
    every = summary["correlations"]["rise"]["rows"]
    if specific["p"] >= CLEAR or specific["low"] <= 0 <= specific["high"]:
        verdict = "**The crowding of rows does not predict which pairs conflict.**"
    elif specific["rho"] > 0:
        verdict = "**Pairs that crowd each other's rows conflict more.**"
    else:
        verdict = "**Pairs that crowd each other's rows conflict less, against the prediction.**"
    change = summary["beyond_random"]
    how = "no more and no less than"
    if change["low"] > 0:
        how = "more than"
    elif change["high"] < 0:
        how = "less than"
    return [
        verdict,
        f"Its rank correlation with the harm beyond random neurons is {_shown(specific)},",
        f"and with the whole rise {_shown(every)}.",
        f"On average another concept's neurons harm a subject {how} random ones of equal",
        "number in every layer; they do more harm in "
        f"{summary['worse']} of {summary['of']} directed pairs,",
        f"by more than two standard errors in {summary['clearly']}.",
    ]


def _row(pair: Mapping[str, Any]) -> list[str]:
    return [
        " + ".join(name.replace("_", " ") for name in pair["of"]),
        f"{pair['jaccard']:.2%}",
        f"{pair['jaccard_by_chance']:.2%}",
        f"{pair['rows']:.2%}",
        f"{pair['rise']:+.4f}",
        f"{pair['beyond_random']:+.4f}",
    ]


def _rho(summary: Mapping[str, Any], outcome: str, name: str) -> str:
    return _shown(summary["correlations"][outcome][name])


def _shown(found: Mapping[str, float]) -> str:
    return f"{found['rho']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}], p {found['p']:.3f}"


def _signed(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
