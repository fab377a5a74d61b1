"""How much success does a method buy with how much drift? All methods, along their budgets.

For Cones the prior weight is varied too. No point is chosen here: the frontier is the answer.
"""

from pathlib import Path

import pandas as pd

from cones.files import replace_when_done
from experiments.lab import Lab
from experiments.studies.shared import CONTROLS, FIGURES, RIVALS, claim, curve, distinct, known
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

PRIOR_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0)
METHODS = (*(name for name in CONTROLS if name != "words"), "words", "cones-paper", *RIVALS)


def cases(options: Options) -> list[Case]:
    """Take Cones with every prior weight, and every other method, with the first seed."""
    weights = PRIOR_WEIGHTS[1:3] if options.quick else PRIOR_WEIGHTS
    lines = [{"method": "cones", "prior_weight": weight} for weight in weights]
    lines += [{"method": method, "prior_weight": None} for method in known(METHODS)]
    return [{"subjects": [key], "seed": 0, **line} for key in options.subjects for line in lines]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Measure the curve; of a control only its end."""
    examples, weight = lab.chosen(case["subjects"]), case["prior_weight"]
    settings = {} if weight is None else {"settings": {"prior_weight": weight}}
    rows = curve(lab, case["method"], examples, seed=case["seed"], **settings)
    return rows[-1:] if case["method"] in CONTROLS else rows


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average every point over subjects, and ask which rivals lie above the line of Cones."""
    points = points_of(table)
    own = [row for row in points if row["method"] == "cones"]
    above = [
        row
        for row in points
        if row["method"] in RIVALS and row["success"] > line(own, row["drift"])
    ]
    told = ", ".join(
        f"{row['method']} at {row['gradients']:.0f} gradients ({row['success']:.0%}, drift "
        f"{row['drift']:.4f})"
        for row in above
    )
    here = f"Above the line of Cones: {told}." if above else "No rival's point lies above it."
    paper = "Cones is at or above every rival."
    claims = [claim(paper, here, agrees=not above)] if own else []
    return {"subjects": distinct(table), "points": points, "above": above, "claims": claims}


def points_of(table: pd.DataFrame) -> list[Row]:
    """Give every point as a row."""
    weight = table["prior_weight"].astype(object).where(table["prior_weight"].notna(), None)
    named = table.assign(point=[*zip(table["method"], weight, table["budget"], strict=True)])
    return [
        {"method": row["point"][0], "prior_weight": row["point"][1]}
        | {"budget": int(row["point"][2])}
        | {name: value for name, value in row.items() if name != "point"}
        for row in rows_of(named, "point", FIGURES)
    ]


def line(own: list[Row], drift: float) -> float:
    """Give the best success that Cones reaches with at most this drift; 0 below its first."""
    return max((row["success"] for row in own if row["drift"] <= drift), default=0.0)


def figure(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Plot all points; lines join the budgets of one method."""
    from matplotlib.figure import Figure  # an extra

    plot = Figure(figsize=(8, 5.5), layout="tight")
    axes = plot.add_subplot(xlabel="drift", ylabel="success, %")
    axes.set_xscale("symlog", linthresh=1e-3)
    lines: dict[str, list[Row]] = {}
    for row in points_of(table):
        weight = row["prior_weight"]
        name = row["method"] if weight is None else f"{row['method']}, prior weight {weight:g}"
        lines.setdefault(name, []).append(row)
    for name, rows in lines.items():
        style = {"linewidth": 2.2} if name.startswith("cones,") else {"linestyle": "--"}
        success = [100 * row["success"] for row in rows]
        axes.plot([row["drift"] for row in rows], success, marker="o", label=name, **style)
    axes.legend(fontsize=7)
    with replace_when_done(docs / "frontier.png") as path:
        plot.savefig(path, format="png", dpi=130)


STUDY = Study(
    "frontier", "Success against drift, all methods", cases, measure, results, figure=figure
)
