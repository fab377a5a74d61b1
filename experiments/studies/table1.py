"""Table 1: does the subject come out, where it was asked for, by each method?"""

import pandas as pd

from experiments.lab import Lab
from experiments.methods.rivals import MEASURED
from experiments.studies import shared
from experiments.studies.shared import CONTROLS, RIVALS, aim, claim, means, told
from experiments.study import Case, Options, Results, Row, Study

METHODS = (*CONTROLS, "cones", "cones-paper", *RIVALS)


def cases(options: Options) -> list[Case]:
    """Take every method with every subject and seed; what learns nothing, once."""
    return [
        {"subjects": [key], "method": method, "seed": seed}
        for key in options.subjects
        for seed in options.seeds
        for method in shared.known(METHODS)
        if seed == 0 or method not in shared.UNLEARNT
    ]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Measure a control or Cones once, a rival along its curve."""
    examples = lab.chosen(case["subjects"])
    return shared.compared(lab, case["method"], examples, seed=case["seed"], reference="cones")


def results(table: pd.DataFrame, options: Options) -> Results:
    """Compare each at its best, and at equal drift."""
    found = shared.comparison(table, "cones")
    checked = {"claims": claims(found), "aims": aims(found["rows"])}
    present = set(table["method"])
    rates = {name: MEASURED.get(name) for name in RIVALS if name in present}
    return {"subjects": shared.distinct(table), **found, **checked, "rates": rates}


def claims(found: Results) -> list[dict[str, object]]:
    """Ask what the paper's Table 1 says of a single subject."""
    names = ("cones", *RIVALS)
    place, right = (means(found["rows"], names, column) for column in ("place", "colour"))
    rivals = [name for name in place if name != "cones"]
    if "cones" not in place or not rivals:
        return []
    ahead = [row["method"] for row in found["lead"] if (row["equal_drift"]["mean"] or 0) < 0]
    better = f"{', '.join(ahead)} succeed more often." if ahead else "no rival does better."
    return [
        claim(
            "Cones follows the text better than every rival.",
            f"Place right: {told(place)}.",
            place["cones"] > max(place[name] for name in rivals),
        ),
        claim(
            "Cones is about as like the subject as its rivals (.725; they .722 to .744).",
            f"Main colour right: {told(right)}.",
            right["cones"] >= min(right[name] for name in rivals),
        ),
        claim(
            "Cones customises as well as methods that train weights.",
            f"At equal drift {better}",
            not ahead,
        ),
    ]


def aims(rows: list[Row]) -> list[dict[str, object]]:
    """Compare with what the project aims at."""
    own, low = means(rows, METHODS), means(rows, ("untouched", "random", "random-matched"))
    place = means(rows, ("cones",), "place")
    return [
        aim("success of cones at least 60 %", own.get("cones"), 0.6),
        aim(
            "untouched and random masks at most 10 %",
            max(low.values(), default=None),
            0.1,
            most=True,
        ),
        aim("shuffled at most 15 %", own.get("shuffled"), 0.15, most=True),
        aim("place right at least 95 %", place.get("cones"), 0.95),
    ]


STUDY = Study(
    "table1", "One subject: who draws it where it was asked for?", cases, measure, results
)
