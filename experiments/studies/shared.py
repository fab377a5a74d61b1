"""What the studies share: a method's pictures judged in every place, and how far it drifts.

Search, choice and report draw apart: losses by purpose, pictures by seed. A measurement is kept
under all that it depends on, so that studies which ask for the same share it.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain

import pandas as pd

from cones.files import write_atomic
from experiments.lab import Lab
from experiments.methods import METHODS, Fitted, Method, Shut, fitted
from experiments.methods.fits import digest
from experiments.metrics.drift import drift
from experiments.metrics.success import judged, shares
from experiments.study import Results, Row
from experiments.subjects import PLACES, Example, prompt
from experiments.tables import interval, rows_of

CONTROLS = ("untouched", "random", "random-matched", "shuffled", "no-identifier", "words")
RIVALS = ("dreambooth", "textual-inversion", "custom-diffusion", "lora", "shira")
MERGED = ("custom-diffusion-merged", "lora-sum")
BUDGETS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of a method's own, at which its curve is measured
FIRST_SEED = {"report": 0, "choice": 1_000_000, "shown": 2_000_000}
CHOSEN_BY = 4  # times fewer pictures for a choice than for a report
FIGURES = (
    *("success", "exact", "noun", "colour", "second", "pattern", "place", "count"),
    *("drift", "gain_seen", "gain_new", "gain_others", "gradients", "bytes"),
)


def known(names: Iterable[str]) -> tuple[str, ...]:
    """Leave out methods that there are not."""
    return tuple(name for name in names if name in METHODS)


def places(lab: Lab) -> list[str]:
    """Give the places that are drawn."""
    return list(PLACES)[: lab.effort.prompts]


def seeds(lab: Lab, draws: str) -> range:
    """Give the seeds of the pictures that are drawn for ``report`` or for a ``choice``."""
    count = lab.effort.pictures
    first = FIRST_SEED[draws]
    return range(first, first + max(1, count // CHOSEN_BY if draws == "choice" else count))


def pictured(
    lab: Lab, found: Fitted, examples: Sequence[Example], *, draws: str = "report"
) -> dict[str, float]:
    """Draw the subjects in every place, and average what the examiner says of the pictures."""
    if lab.examiner is None:
        raise ValueError("found no examiner; expected one to judge pictures; give the lab one")
    chosen = seeds(lab, draws)
    asked = [place for place in places(lab) for _ in chosen]
    with found.applied(lab.pipeline):
        drawn = lab.draw([prompt(found.phrases, place) for place in places(lab)], chosen)
    seen = zip(lab.examiner.read(drawn), asked, strict=True)
    return shares([judged(each, examples, place) for each, place in seen])


def drifted(lab: Lab, found: Fitted, examples: Sequence[Example]) -> dict[str, float]:
    """Average gains and drifts over subjects."""
    return shares([drift(lab, found, each) for each in examples])


def measured(
    lab: Lab,
    how: Method,
    examples: Sequence[Example],
    *,
    seed: int,
    draws: str = "report",
    going_on: bool = False,
) -> Row:
    """Learn, draw, judge and measure the drift, or read what was measured before.

    Args:
        lab: Model, work folder and effort.
        how: A method with its settings.
        examples: One subject or several in one picture.
        seed: Of learning.
        draws: ``report``, or ``choice`` for what something is chosen by.
        going_on: A larger budget of the same method follows.
    """
    photos = [(each.digest, each.identifier) for each in examples]
    key = {"method": how.name, "settings": asdict(how), "photos": photos, "seed": seed}
    name = "-".join([how.name, *(each.key for each in examples), str(seed), draws])
    file = f"{name}-{digest({**key, 'draws': draws, **lab.told})}.json"
    path = lab.work / "measured" / file
    if not path.exists():
        found = fitted(lab, how, examples, seed=seed, going_on=going_on)
        row = pictured(lab, found, examples, draws=draws) | drifted(lab, found, examples)
        row |= {"gradients": found.gradients, "bytes": found.bytes}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(row).encode())
    return json.loads(path.read_text("utf-8"))


def budgets(lab: Lab, method: str) -> list[int]:
    """Give the budgets of a method's curve; the last is its own."""
    whole = lab.effort.budget(METHODS[method]().budget)
    return sorted({max(1, round(whole * share)) for share in BUDGETS})


def curve(
    lab: Lab, method: str, examples: Sequence[Example], *, seed: int, **settings: object
) -> list[Row]:
    """Measure a method at every budget, on the draws for choices."""
    how = {b: METHODS[method](budget=b, **settings) for b in budgets(lab, method)}
    options = {"seed": seed, "draws": "choice", "going_on": True}
    return [{"budget": b, **measured(lab, each, examples, **options)} for b, each in how.items()]


def compared(
    lab: Lab, method: str, examples: Sequence[Example], *, seed: int, reference: str
) -> list[Row]:
    """Measure a method once; a rival at every budget, at its best, and where its drift is equal.

    The best budget of a rival and the one whose drift is nearest to that of ``reference`` are
    chosen for these subjects and this seed, on other draws than those of the report.

    Returns:
        Rows with a column ``at``: ``report``, ``equal drift`` or ``curve``.
    """
    if method not in (*RIVALS, *MERGED):
        return [{"at": "report", **measured(lab, METHODS[method](), examples, seed=seed)}]
    points = curve(lab, method, examples, seed=seed)
    goal = measured(lab, METHODS[reference](), examples, seed=seed, draws="choice")["drift"]
    chosen = {
        "report": max(points, key=lambda row: (row["success"], -row["drift"])),
        "equal drift": min(points, key=lambda row: _apart(row["drift"], goal)),
    }
    rows = [{"at": "curve", **row} for row in points]
    for at, budget in {at: row["budget"] for at, row in chosen.items()}.items():
        row = measured(lab, METHODS[method](budget=budget), examples, seed=seed)
        rows.append({"at": at, "budget": budget, **row})
    return rows


def comparison(table: pd.DataFrame, reference: str) -> Results:
    """Make the parts of a results file from rows of :func:`compared`.

    Returns:
        ``rows`` of the report; ``equal_drift``, the same for rivals; ``lead``, by how much
        ``reference`` succeeds more often, paired by subject; ``curves``.
    """
    report, near, points = (table[table["at"] == at] for at in ("report", "equal drift", "curve"))
    own = report[report["method"] == reference]
    rivals = list(near["method"].unique())
    points = points.assign(point=points["method"] + " " + points["budget"].map("{:.0f}".format))
    of = {row["point"]: row for row in points.to_dict("records")}
    curves = [
        {"method": of[row["point"]]["method"], "budget": int(of[row["point"]]["budget"]), **row}
        for row in rows_of(points, "point", FIGURES)
    ]
    return {
        "rows": rows_of(report, "method", FIGURES),
        "equal_drift": rows_of(pd.concat([own, near]), "method", FIGURES),
        "lead": [
            {
                "method": rival,
                "best": lead(own, report[report["method"] == rival]),
                "equal_drift": lead(own, near[near["method"] == rival]),
            }
            for rival in rivals
        ],
        "curves": curves,
    }


def lead(
    one: pd.DataFrame, other: pd.DataFrame, column: str = "success"
) -> dict[str, float | int | None]:
    """Give the interval of ``one`` minus ``other`` over the subjects that both have."""
    means = [table.groupby("subjects")[column].mean() for table in (one, other)]
    found = (means[0] - means[1]).dropna()
    none = {"mean": None, "low": None, "high": None, "n": 0}
    return interval(found) if len(found) else none


def claim(paper: str, here: str, *, agrees: bool | None) -> dict[str, object]:
    """Put what the paper says beside what was found; None is undecided."""
    return {"paper": paper, "here": here, "agrees": None if agrees is None else bool(agrees)}


def aim(said: str, found: float | None, bound: float, *, most: bool = False) -> dict[str, object]:
    """Compare a share with what was aimed at: at least, or at ``most``, ``bound``."""
    met = None if found is None else bool(found <= bound if most else found >= bound)
    missed = None if found is None or met else abs(found - bound)
    return {"aim": said, "found": found, "met": met, "missed_by": missed}


def means(rows: Sequence[Row], column: str = "success") -> dict[str, float]:
    """Give a column by method."""
    return {row["method"]: row[column] for row in rows if column in row}


def distinct(table: pd.DataFrame) -> int:
    """Count the subjects, alone or in groups."""
    return len(set(chain.from_iterable(each.split("+") for each in table["subjects"])))


def shut(found: Fitted) -> Shut:
    """Take what a search has found for what it is."""
    if not isinstance(found, Shut):
        raise TypeError(
            f"found {type(found).__name__}; expected shut neurons; learn them by Cones"
        )
    return found


def _apart(drift: float, goal: float) -> float:
    """Say how far two drifts are apart, as a factor."""
    return abs(math.log(max(drift, 1e-12) / max(goal, 1e-12)))
