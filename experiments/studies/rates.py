"""Which learning rate for each rival? A grid on the tuning subjects, judged as choices are.

The winner of a rival is stored in ``experiments/rates.json``, which its default is read from. A
winner at an edge of the grid is named: then the grid has to grow.
"""

import json
from pathlib import Path

import pandas as pd

from cones.files import write_atomic
from experiments.lab import Lab
from experiments.methods.rivals import RATES, RATES_FILE, rival
from experiments.studies import shared
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of what a rival begins with
START = {
    "custom-diffusion": 1e-3,
    "dreambooth": 1e-4,
    "lora": 1e-3,
    "shira": 1e-3,
    "textual-inversion": 5e-3,
}


def cases(options: Options) -> list[Case]:
    """Take every rival with every rate, for every tuning subject."""
    factors = FACTORS[2:4] if options.quick else FACTORS
    return [
        {"subjects": [key], "seed": 0, "method": name, "rate": round(START[name] * factor, 9)}
        for key in options.tuning
        for name in RATES
        for factor in factors
    ]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Train to the end of the budget, and judge."""
    how = rival(case["method"], rate=case["rate"])
    examples = lab.chosen(case["subjects"])
    return [shared.measured(lab, how, examples, seed=case["seed"], draws="choice")]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Choose the rate of the most success; of equals, that of the greatest gain on new views."""
    rows, best, edges = [], {}, []
    for name, part in table.groupby("method", sort=False):
        found = rows_of(part, "rate", shared.FIGURES)
        rows += [{"method": name, **row} for row in found]
        best[str(name)] = max(found, key=lambda row: (row["success"], row["gain_new"]))["rate"]
        tried = sorted(row["rate"] for row in found)
        edges += [name] if best[str(name)] in (tried[0], tried[-1]) else []
    return {"rows": rows, "best": best, "edges": edges, "in_use": dict(RATES)}


def store(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Put the winners of a whole grid into ``rates.json``."""
    found = results(table, Options(()))
    whole = len(FACTORS) * len(RATES) * sum(each.tuning for each in lab.examples.values())
    if len(table) < whole or lab.effort.gradients is not None:
        return
    told = {"command": "python -m experiments run rates", "measured": True, "rates": found["best"]}
    write_atomic(RATES_FILE, (json.dumps(told, indent=1) + "\n").encode())


STUDY = Study(
    "rates", "Which learning rate for each rival?", cases, measure, results, figure=store
)
