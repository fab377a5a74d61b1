"""How much success does a method buy with how much drift? All methods, along their budgets.

Cones is measured at every prior weight too. No point is chosen here: the frontier is the answer.
"""

from pathlib import Path

import pandas as pd

from cones.files import replace_when_done
from experiments.lab import Lab
from experiments.methods import METHODS
from experiments.methods.cones import CONTROLS
from experiments.studies import shared
from experiments.studies.shared import FIGURES, RIVALS, claim
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

PRIOR_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
POINTS = (*CONTROLS, "cones-paper")  # without a curve


def cases(options: Options) -> list[Case]:
    """Take Cones with every prior weight, and every other method, with the first seed."""
    weights = PRIOR_WEIGHTS[1:3] if options.quick else PRIOR_WEIGHTS
    lines = [{"method": "cones", "prior_weight": weight} for weight in weights]
    lines += [{"method": method, "prior_weight": None} for method in (*POINTS, *RIVALS)]
    return [{"subjects": [key], "seed": 0, **line} for key in options.subjects for line in lines]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Measure a control and another prior weight at one budget, all else along its curve."""
    examples, method, seed = lab.chosen(case["subjects"]), case["method"], case["seed"]
    weight = case["prior_weight"]
    if method not in POINTS and weight in (None, shared.DEFAULT.prior_weight):
        return shared.curve(lab, method, examples, seed=seed)
    how = METHODS[method]() if weight is None else shared.cones(prior_weight=weight)
    row = shared.measured(lab, how, examples, seed=seed, draws="choice")
    return [{"budget": lab.effort.budget(how.budget), **row}]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average every point over subjects, and ask which rivals lie above the line of Cones."""
    points = points_of(table)
    own = [row for row in points if row["method"] == "cones"]

    def line(drift: float) -> float:
        """Give the best success that Cones reaches with at most this drift."""
        return max((row["success"] for row in own if row["drift"] <= drift), default=0.0)

    rivals = [row for row in points if row["method"] in RIVALS]
    above = [row for row in rivals if row["success"] > line(row["drift"])]
    here = f"{len(above)} of {len(rivals)} points of rivals lie above the line of Cones"
    here += f" ({', '.join(dict.fromkeys(row['method'] for row in above))})." if above else "."
    claims = [claim("Cones is at or above every rival.", here, not above)] if rivals else []
    return {"subjects": shared.distinct(table), "points": points, "above": above, "claims": claims}


def points_of(table: pd.DataFrame) -> list[Row]:
    """Give every point as a row."""
    return rows_of(table.astype({"budget": int}), ["method", "prior_weight", "budget"], FIGURES)


def figure(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Plot all points; lines join the budgets of one method."""
    import matplotlib.figure  # an extra

    plot = matplotlib.figure.Figure(figsize=(8, 5.5), layout="tight")
    axes = plot.add_subplot(xlabel="drift", ylabel="success, %", xscale="symlog")
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)
    points = pd.DataFrame(points_of(table))
    for (method, weight), part in points.groupby(
        ["method", "prior_weight"], sort=False, dropna=False
    ):
        name = method if pd.isna(weight) else f"{method}, prior weight {weight:g}"
        style = "o--" if pd.isna(weight) else "s-"
        axes.plot(part["drift"], 100 * part["success"], style, label=name)
    axes.legend(fontsize=7)
    with replace_when_done(docs / "frontier.png") as path:
        plot.savefig(path, format="png", dpi=130)


STUDY = Study(
    "frontier", "Success against drift, all methods", cases, measure, results, figure=figure
)
