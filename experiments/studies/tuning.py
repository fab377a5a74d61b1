"""Which settings are the defaults? A grid on the tuning subjects, which no other study reports.

Prior weight and density are tried together; from the defaults, one at a time, the rest.
Learnt with the first seed and judged on the draws for choices.
"""

from itertools import product

import pandas as pd

from experiments.lab import Lab
from experiments.studies import shared
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

GRID: dict[str, tuple[object, ...]] = {
    "prior_weight": (0.1, 0.3, 1.0, 3.0),
    "density": (0.0066, 0.0132, 0.0243),
}
LINES: dict[str, tuple[object, ...]] = {
    "steps": (150, 300, 600),
    "prior_batch": (1, 2, 4, 8),
    "rate": (0.01, 0.02, 0.04),
    "weighting": ("uniform", "min-snr"),
    "batch": (2, 4, 8),
    "score_steps": (10, 20, 40),
    "prior_count": (12, 24, 48),
    "prior_steps": (6, 12, 20),
}
BASE = {name: getattr(shared.DEFAULT, name) for name in (*GRID, *LINES)}


def cases(options: Options) -> list[Case]:
    """List the grid and the lines, the points nearest to the defaults first, for every subject."""
    grid = {name: values[:2] if options.quick else values for name, values in GRID.items()}
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if not options.quick:
        points += [{name: value} for name, values in LINES.items() for value in values]
    once = {str(BASE | point): BASE | point for point in points}.values()
    near = sorted(once, key=lambda each: sum(each[name] != BASE[name] for name in BASE))
    return [{"subjects": [key], "seed": 0, **each} for each in near for key in options.tuning]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Search and judge."""
    how = shared.cones(**{name: case[name] for name in BASE})
    subjects = lab.chosen(case["subjects"])
    return [shared.measured(lab, how, subjects, seed=case["seed"], draws="choice")]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Rank the settings, compare each with the defaults by subject, and name edges of the grid."""
    rows = rows_of(table, [*BASE], shared.FIGURES)
    rows.sort(key=lambda row: (-row["n"], -row["success"], row["drift"]))
    points = dict(iter(table.groupby([*BASE])))
    own = points.get(tuple(BASE.values()), table[:0])
    for row in rows:
        row["lead"] = shared.lead(points[tuple(row[name] for name in BASE)], own)
    best = rows[0]  # among those that are measured on most subjects
    tried = {name: sorted({r[name] for r in rows if r["n"] == best["n"]}) for name in BASE}
    edges = [n for n, some in tried.items() if len(some) > 2 and best[n] in (some[0], some[-1])]
    default = next((row for row in rows if all(row[n] == BASE[n] for n in BASE)), None)
    found = {"rows": rows, "best": best, "default": default, "edges": edges}
    return {"subjects": shared.distinct(table), **found}


STUDY = Study("tuning", "Which settings are the defaults?", cases, measure, results)
