"""Do two subjects use the same neurons (Fig. 4)? Beside what independent masks would share.

Pairs are disjoint, so that they count as independent; two searches of one subject say how much
of a mask is the subject's, and a search from scratch how near it comes to the union (Sec. 3.3).
"""

import pandas as pd

from cones.analysis.overlap import Overlap, by_block
from cones.mask import Mask
from experiments.lab import Lab
from experiments.methods import learn
from experiments.studies.shared import claim, distinct, shut
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import groups
from experiments.tables import intervals, over_subjects

TWO, SAME, SCRATCH = "two subjects", "one subject twice", "union and search from scratch"
FIGURES = ("shared", "expected", "jaccard", "jaccard_by_chance", "z")
ALL = "all layers"


def cases(options: Options) -> list[Case]:
    """Take pairs of subjects, and every subject with two seeds."""
    pairs = [list(pair) for pair in groups(options.subjects, 2)]
    found = [{"subjects": pair, "kind": kind} for kind in (TWO, SCRATCH) for pair in pairs]
    return found + [{"subjects": [key], "kind": SAME} for key in options.subjects]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Compare two masks, as a whole and by block and kind of projection."""
    parts = by_block(*masks(lab, case))
    found = {ALL: sum(parts.values(), Overlap())} | {" ".join(k): v for k, v in parts.items()}
    return [
        {"where": where, **{name: getattr(each, name) for name in FIGURES}}
        for where, each in found.items()
    ]


def masks(lab: Lab, case: Case) -> tuple[Mask, Mask]:
    """Find the two masks of a case."""
    chosen = lab.chosen(case["subjects"])
    apart = shut(learn(lab, "cones", chosen))
    if case["kind"] == TWO:
        return apart.concepts[0].mask, apart.concepts[1].mask
    if case["kind"] == SAME:
        return apart.mask, shut(learn(lab, "cones", chosen, seed=1)).mask
    return apart.mask, shut(learn(lab, "cones-joint", chosen)).mask


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average over pairs or subjects."""
    whole = over_subjects(table[table["where"] == ALL], "kind", FIGURES)
    blocks = {}
    for kind, part in table[table["where"] != ALL].groupby("kind", sort=False):
        blocks[kind] = intervals(part, "where", FIGURES)
    claims, mean = [], {k: found["jaccard"]["mean"] or 0.0 for k, found in whole.items()}
    if TWO in whole:
        chance = whole[TWO]["jaccard_by_chance"]["mean"]
        here = f"{mean[TWO]:.1%}, where independent masks would share {chance:.2%}."
        claims.append(claim("Two subjects share 2.42 % of their neurons.", here, mean[TWO] < 0.05))
    if SCRATCH in whole:
        paper = "A search from scratch is close to the union: they share 53.27 %."
        claims.append(claim(paper, f"They share {mean[SCRATCH]:.1%}.", mean[SCRATCH] >= 0.4))
    rows = [{"kind": kind, **columns} for kind, columns in whole.items()]
    return {"subjects": distinct(table), "rows": rows, "blocks": blocks, "claims": claims}


TITLE = "Do two subjects use the same neurons?"
STUDY = Study("overlap", TITLE, cases, measure, results, judged=False, least=2)
