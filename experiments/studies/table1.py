"""Table 1: does the subject come out, where it was asked for, by each method?"""

import pandas as pd

from experiments.methods.cones import CONTROLS
from experiments.methods.rivals import MEASURED
from experiments.studies import shared
from experiments.studies.shared import RIVALS, aim, claim, means, told
from experiments.study import Case, Options, Results, Row, Study

METHODS = (shared.PHOTOS, *CONTROLS, "cones", "cones-paper", *RIVALS)


def cases(options: Options) -> list[Case]:
    """Take every method with every subject and seed."""
    return [case for key in options.subjects for case in shared.contest(options, [key], METHODS)]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Compare each at its best, and at equal drift."""
    found = shared.comparison(table)
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
    ahead = [row["method"] for row in found["lead"] if (row["equal_drift"]["high"] or 0) < 0]
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
            f"At equal drift {', '.join(ahead) or 'no rival'} surely succeeds more often.",
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


TITLE = "One subject: who draws it where it was asked for?"
STUDY = Study("table1", TITLE, cases, shared.compared, results)
