"""Table 1: does the subject come out, where it was asked for, by each method?"""

import pandas as pd

from experiments.lab import Lab
from experiments.studies.shared import (
    CONTROLS,
    RIVALS,
    aim,
    claim,
    compared,
    comparison,
    distinct,
    known,
    means,
)
from experiments.study import Case, Options, Results, Row, Study

METHODS = (*CONTROLS, "cones", "cones-paper", *RIVALS)


def cases(options: Options) -> list[Case]:
    """Take every method with every subject and seed."""
    return [
        {"subjects": [key], "method": method, "seed": seed}
        for key in options.subjects
        for seed in options.seeds
        for method in known(METHODS)
    ]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Measure a control or Cones once, a rival along its curve."""
    examples = lab.chosen(case["subjects"])
    return compared(lab, case["method"], examples, seed=case["seed"], reference="cones")


def results(table: pd.DataFrame, options: Options) -> Results:
    """Compare each at its best, and at equal drift."""
    found = comparison(table, "cones")
    return {
        "subjects": distinct(table),
        **found,
        "claims": claims(found),
        "aims": aims(found["rows"]),
    }


def claims(found: Results) -> list[dict[str, object]]:
    """Ask what the paper's Table 1 says of a single subject."""
    place, right = means(found["rows"], "place"), means(found["rows"], "colour")
    rivals = [name for name in RIVALS if name in place]
    if "cones" not in place or not rivals:
        return []
    told = ", ".join(f"{name} {place[name]:.0%}" for name in ("cones", *rivals))
    like = ", ".join(f"{name} {right[name]:.0%}" for name in ("cones", *rivals))
    behind = [row["method"] for row in found["lead"] if (row["equal_drift"]["mean"] or 0) < 0]
    return [
        claim(
            "Cones follows the text better than every rival.",
            f"Share of pictures in the right place: {told}.",
            agrees=place["cones"] >= max(place[name] for name in rivals),
        ),
        claim(
            "Cones is about as like the subject as the others (.725 of .722 to .744).",
            f"Main colour right: {like}.",
            agrees=right["cones"] >= min(right[name] for name in rivals),
        ),
        claim(
            "Cones customises as well as methods that train weights.",
            "At equal drift "
            + (f"{', '.join(behind)} succeed more often." if behind else "no rival does better."),
            agrees=not behind,
        ),
    ]


def aims(rows: list[Row]) -> list[dict[str, object]]:
    """Compare with what the project aims at."""
    success, place = means(rows), means(rows, "place")
    low = [success[name] for name in ("untouched", "random", "random-matched") if name in success]
    return [
        aim("success of cones at least 60 %", success.get("cones"), 0.6),
        aim("untouched and random masks at most 10 %", max(low, default=None), 0.1, most=True),
        aim("shuffled at most 15 %", success.get("shuffled"), 0.15, most=True),
        aim("place right at least 95 %", place.get("cones"), 0.95),
    ]


STUDY = Study(
    "table1", "One subject: who draws it where it was asked for?", cases, measure, results
)
