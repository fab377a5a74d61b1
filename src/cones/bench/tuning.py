"""Choose a setting of every method, on tuning subjects only: the rivals' rates, Cones' density.

Every value of the grid is an evaluation of its own, so it is resumed and scored like any other.
A method's best setting has the highest image alignment (judge) among those that keep
``KEPT`` of the untouched model's text alignment: either score alone is won by ignoring the other,
and a sum of the two weighs them by how far each happens to spread. The whole grid is published
with the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cones.bench.cells import Notify
from cones.bench.evaluate import Evaluation
from cones.bench.plan import UNTOUCHED, Plan
from cones.bench.scores import Encoders
from cones.errors import SearchError
from cones.methods import SEVERAL

GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "cones": {"density": (0.0025, 0.005, 0.0132, 0.0454)},
    "cones-scenes": {"density": (0.0025, 0.005, 0.0132)},
    "custom-diffusion": {"rate": (3e-4, 1e-3, 3e-3), "sizes": (True, False)},
    "custom-diffusion-merged": {"rate": (1e-4, 3e-4, 1e-3)},
    "dreambooth": {"rate": (3e-5, 1e-4, 3e-4)},
    "lora": {"rate": (1e-3, 3e-3, 1e-2)},
    "shira": {"rate": (1e-3, 3e-3, 1e-2)},
    "textual-inversion": {"rate": (5e-3, 2e-2)},
}
WEIGHED = ("image_alignment", "text_alignment")
KEPT = 0.9  # share of the untouched model's text alignment


def grid_for(
    groups: Sequence[Sequence[str]], methods: Sequence[str] | None = None
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Give the grid of ``methods``, or of all; subjects learnt alone leave nothing to merge.

    Raises:
        SearchError: None of the methods has a grid for these groups.
    """
    alone = all(len(group) == 1 for group in groups)
    known = [name for name in GRID if not (alone and name in SEVERAL)]
    grid = {name: GRID[name] for name in methods or known if name in known}
    if not grid:
        raise SearchError(
            f"found {', '.join(methods or ())} to tune; expected some of {', '.join(known)}; "
            "choose among these, or join subjects by + for methods that merge them"
        )
    return grid


def tuning_figures(
    pipeline: Any,
    folder: Path | str,
    plan: Plan,
    encoders: Encoders,
    *,
    work: Path | str,
    grid: Mapping[str, Mapping[str, Sequence[float]]] = GRID,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Measure every setting of the grid.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders.
        plan: What is drawn; its methods are replaced, its groups are the tuning subjects.
        encoders: Who judges.
        work: Keeps what is done.
        grid: Method -> setting -> values.
        on_progress: Called before every cell.

    Returns:
        What :meth:`~cones.bench.evaluate.Evaluation.run` says about plan, model and machine;
        ``untouched``, the scores of the untouched model; ``grid``, a row per setting; ``best``,
        the settings chosen.
    """

    def measured(asked: Plan) -> dict[str, Any]:
        return Evaluation(pipeline, folder, asked, work, on_progress).run(encoders)

    found = measured(replace(plan, methods=(UNTOUCHED,)))
    untouched = _means(found)
    rows, best = [], {}
    for method, changes in grid.items():
        for name, values in changes.items():
            tried = []
            for value in values:
                given = _given(method, plan.changes.get(method, {}), name, value)
                asked = replace(plan, methods=(method,), changes={**plan.changes, method: given})
                scores = _means(measured(asked))
                tried.append({"method": method, name: value, "scores": scores})
            rows += tried
            best.setdefault(method, {})[name] = chosen(tried, untouched)[name]
    told = {name: found[name] for name in ("plan", "model", "machine")}
    told["plan"] = {**told["plan"], "methods": list(grid)}
    fixed = {
        m: {k: v for k, v in plan.changes.get(m, {}).items() if k not in (*grid[m], "settings")}
        for m in grid
    }
    return {
        **told,
        "fixed": fixed,
        "weighed": list(WEIGHED),
        "kept": KEPT,
        "untouched": untouched,
        "grid": rows,
        "best": best,
    }


def chosen(rows: Sequence[Mapping[str, Any]], untouched: Mapping[str, float]) -> Mapping[str, Any]:
    """Give the row with the highest image alignment of those that keep enough text alignment.

    Where none does, the row that keeps most; of equal ones the first.

    Raises:
        SearchError: There are no rows.
    """
    if not rows:
        raise SearchError("found an empty grid; expected at least one value; name some")
    image, text = WEIGHED
    enough = [row for row in rows if row["scores"][text] >= KEPT * untouched[text]]
    if not enough:
        return max(rows, key=lambda row: row["scores"][text])
    return max(enough, key=lambda row: row["scores"][image])


def _given(method: str, changes: Mapping[str, Any], name: str, value: float) -> dict[str, Any]:
    """Set one value: a method's own, or of Cones' search."""
    if "settings" in changes:
        return {**changes, "settings": replace(changes["settings"], **{name: value})}
    return {**changes, name: value}


def _means(found: Mapping[str, Any]) -> dict[str, float]:
    (entry,) = found["table"]
    return {name: score["mean"] for name, score in entry["scores"].items()}
