"""Two, three and four subjects in one picture: are all of them right?

Cones joins what was found of each alone (Sec. 3.2), searches on inside the union (Sec. 3.3) or
searches all weights together; rivals train on all subjects at once, or are merged afterwards.
"""

import pandas as pd

from experiments.methods.cones import CONTROLS
from experiments.studies import shared
from experiments.studies.shared import MERGED, RIVALS, aim, claim, means, told
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import groups

SIZES = (2, 3, 4)
CONES = ("cones", "cones-collaborative", "cones-joint")
METHODS = (*CONTROLS, *CONES, *RIVALS, *MERGED)


def cases(options: Options) -> list[Case]:
    """Take every method with every group and seed."""
    return [
        {**case, "size": size}
        for size in (SIZES[:1] if options.quick else SIZES)
        for group in groups(options.subjects, size)
        for case in shared.contest(options, group, METHODS)
    ]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Compare for each number of subjects apart; groups are the unit."""
    found = {}
    for size, part in table.groupby("size"):
        counts = {"subjects": shared.distinct(part), "groups": part["subjects"].nunique()}
        found[str(size)] = {**counts, **shared.comparison(part)}
    best = {n: max(means(part["rows"], CONES).values(), default=None) for n, part in found.items()}
    return {
        **found,
        "sizes": list(found),
        "claims": [each for size, part in found.items() for each in claims(size, part["rows"])],
        "aims": [
            aim("two subjects, both right: at least 35 %", best.get("2"), 0.35),
            aim("three subjects, all right: at least 15 %", best.get("3"), 0.15),
        ],
    }


def claims(size: str, rows: list[Row]) -> list[dict[str, object]]:
    """Ask what the paper says of several subjects."""
    own, others = means(rows, CONES), means(rows, (*RIVALS, *MERGED))
    here, found = f"All subjects and the place right: {told(own | others)}.", []
    if own and others:
        agrees = max(own.values()) > max(others.values())
        found.append(claim(f"With {size} subjects Cones is ahead of every rival.", here, agrees))
    if {"cones-collaborative", "cones-joint"} <= own.keys():
        agrees = own["cones-collaborative"] >= own["cones-joint"]
        paper = f"With {size} subjects, searching on inside the union beats a search from scratch."
        found.append(claim(paper, f"All right: {told(own)}.", agrees))
    return found


TITLE = "Several subjects: are all of them right?"
STUDY = Study("several", TITLE, cases, shared.compared, results, least=2)
