"""One subject after the other (Fig. A9): does the second make the model forget the first?

Each method learns the second subject in a model that has learnt the first. Success of the first is
measured before and after, and of the second after, one subject a picture.
"""

from dataclasses import replace

import pandas as pd

from experiments.lab import Lab
from experiments.methods import METHODS, Fitted, Shut, Tuned, fitted
from experiments.studies.shared import claim, distinct, lead, pictured
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import groups
from experiments.tables import intervals

COMPARED = ("cones", "dreambooth", "custom-diffusion")
FIGURES = ("first_before", "first_after", "kept", "second_after")


def cases(options: Options) -> list[Case]:
    """Take disjoint pairs by every method."""
    return [
        {"subjects": list(pair), "method": method, "seed": 0}
        for pair in groups(options.subjects, 2)
        for method in COMPARED
    ]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Learn one after the other, and judge each alone."""
    (first, second), seed = lab.chosen(case["subjects"]), case["seed"]
    how = METHODS[case["method"]]()
    one = fitted(lab, how, [first], seed=seed)
    with one.applied(lab.pipeline):  # a new lab names what it keeps by the weights of now
        two = fitted(replace(lab), how, [second], seed=seed)
    both = sequence(one, two)
    old, new = (replace(both, phrases=(each.phrase,)) for each in (first, second))
    row = {"first_before": pictured(lab, one, [first])["success"]}
    row["first_after"] = pictured(lab, old, [first])["success"]
    row["second_after"] = pictured(lab, new, [second])["success"]
    return [row | {"kept": row["first_after"] - row["first_before"]}]


def sequence(one: Fitted, two: Fitted) -> Shut | Tuned:
    """Put together what was learnt first and what was learnt after it."""
    phrases, taken = (*one.phrases, *two.phrases), one.gradients + two.gradients
    if isinstance(one, Shut) and isinstance(two, Shut):
        base = one.concepts[0].base  # the second was found where the first was shut
        later = tuple(replace(concept, base=base) for concept in two.concepts)
        return Shut((*one.concepts, *later), phrases, taken)
    if isinstance(one, Tuned) and isinstance(two, Tuned):
        return Tuned({**one.words, **two.words}, phrases, taken, {**one.weights, **two.weights})
    raise TypeError(f"found {type(one).__name__} and {type(two).__name__}; expected one kind")


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average over pairs, and compare what is kept."""
    rows = intervals(table, "method", FIGURES)
    of = {row["method"]: table[table["method"] == row["method"]] for row in rows}
    rivals = [name for name in of if name != "cones"]
    leads = [{"method": n, "kept": lead(of["cones"], of[n], "kept")} for n in rivals]
    told = ", ".join(f"{row['method']} {row['kept']['mean']:+.0%}" for row in rows)
    paper = "Cones forgets the first subject less than DreamBooth and Custom Diffusion."
    ahead = all((row["kept"]["mean"] or 0.0) > 0 for row in leads) if leads else None
    claims = [claim(paper, f"Success of the first changes by: {told}.", ahead)]
    return {"subjects": distinct(table), "rows": rows, "leads": leads, "claims": claims}


STUDY = Study(
    "sequential", "One after the other: is the first forgotten?", cases, measure, results, least=2
)
