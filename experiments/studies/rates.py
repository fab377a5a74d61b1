"""Which learning rate for each rival? A grid on the tuning subjects, judged as choices are.

The winner of a rival is stored in ``experiments/rates.json``, which its default is read from, with
the number of subjects and the weights that it was measured on. A winner at an edge of the grid is
named: then the grid has to grow.
"""

import json
from pathlib import Path

import pandas as pd

from cones.files import write_atomic
from experiments.lab import Lab
from experiments.methods.rivals import RATES, RATES_FILE, TRAINED, rival
from experiments.studies import shared
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

FACTORS = (0.1, 0.3, 1.0, 3.0)  # of what a rival begins with
START = {
    "custom-diffusion": 3e-4,
    "dreambooth": 3e-5,
    "lora": 1e-3,
    "shira": 1e-3,
    "textual-inversion": 5e-3,
}


def cases(options: Options) -> list[Case]:
    """Take every rival with every rate, for every tuning subject."""
    factors = FACTORS[2:] if options.quick else FACTORS
    return [
        {**case, "rate": round(START[case["method"]] * factor, 9)}
        for case in shared.variants(options.tuning, RATES)
        for factor in factors
    ]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Train for half of the budget, and judge."""
    how = rival(case["method"], rate=case["rate"], budget=TRAINED[case["method"]]["budget"] // 2)
    examples = lab.chosen(case["subjects"])
    return [shared.measured(lab, how, examples, seed=case["seed"], draws="choice")]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Choose the rate of the most success; of equals, that of the greatest gain on new views."""
    rows, best, edges = rows_of(table, ["method", "rate"], shared.FIGURES), {}, []
    for name in table["method"].unique():
        found = [row for row in rows if row["method"] == name]
        best[name] = max(found, key=lambda row: (row["success"], row["gain_new"]))["rate"]
        tried = [row["rate"] for row in found]
        edges += [name] if best[name] in (min(tried), max(tried)) else []
    return {"rows": rows, "best": best, "edges": edges, "in_use": dict(RATES)}


def store(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Put the winners into ``rates.json``, of rivals that were measured at every rate."""
    if lab.effort.gradients is not None:  # only tried
        return
    found, old = results(table, Options(()))["best"], json.loads(RATES_FILE.read_text("utf-8"))
    for name, part in table.groupby("method"):
        counts = part.groupby("rate")["subjects"].nunique()
        if len(counts) == len(FACTORS) and counts.nunique() == 1:
            old["rates"][name] = found[name]
            old["measured"][name] = {"subjects": int(counts.iloc[0]), "weights": lab.key}
    write_atomic(RATES_FILE, (json.dumps(old, indent=1) + "\n").encode())


STUDY = Study(
    "rates", "Which learning rate for each rival?", cases, measure, results, figure=store
)
