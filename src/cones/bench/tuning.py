"""Choose the rates of the rival methods, on tuning subjects only.

Every value of the grid is an evaluation of its own, so it is resumed and scored like any other.
A method's best setting has the highest sum of image alignment (judge) and text alignment: either
alone is won by ignoring the other. The whole grid is published with the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cones.bench.cells import Notify
from cones.bench.evaluate import Evaluation
from cones.bench.plan import Plan
from cones.bench.scores import Encoders
from cones.errors import SearchError

GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "custom-diffusion": {"rate": (3e-4, 1e-3, 3e-3)},
    "dreambooth": {"rate": (3e-5, 1e-4, 3e-4)},
    "lora": {"rate": (1e-3, 3e-3, 1e-2)},
    "shira": {"rate": (1e-3, 3e-3, 1e-2)},
    "textual-inversion": {"rate": (5e-3, 2e-2)},
}
WEIGHED = ("image_alignment", "text_alignment")


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
        ``grid``, a row per setting; ``best``, the settings chosen.
    """
    rows, best = [], {}
    found: dict[str, Any] = {}
    for method, changes in grid.items():
        for name, values in changes.items():
            tried = []
            for value in values:
                given = {**plan.changes.get(method, {}), name: value}
                asked = replace(plan, methods=(method,), changes={**plan.changes, method: given})
                found = Evaluation(pipeline, folder, asked, work, on_progress).run(encoders)
                means = {n: s["mean"] for n, s in found["table"][0]["scores"].items()}
                tried.append({"method": method, name: value, "scores": means})
            rows += tried
            best.setdefault(method, {})[name] = chosen(tried)[name]
    told = {name: found[name] for name in ("plan", "model", "machine")}
    told["plan"] = {**told["plan"], "methods": list(grid)}
    fixed = {
        m: {k: v for k, v in plan.changes.get(m, {}).items() if k not in grid[m]} for m in grid
    }
    return {**told, "fixed": fixed, "weighed": list(WEIGHED), "grid": rows, "best": best}


def chosen(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Give the row with the highest sum of the weighed scores, the first of equal ones.

    Raises:
        SearchError: There are no rows.
    """
    if not rows:
        raise SearchError("found an empty grid; expected at least one value; name some")
    return max(rows, key=lambda row: sum(row["scores"][name] for name in WEIGHED))
