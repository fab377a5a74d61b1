"""Is a method beaten by a bug? Each on an easy subject, trained long, and not trained at all.

Trained long on one subject and asked for the prompt of its training, a method that works comes
near the likeness of the photos to each other, whatever it forgets meanwhile. Not trained at all it
must draw what the untouched model draws, to the last bit.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cones.bench.cells import Notify, Photos
from cones.bench.evaluate import Evaluation
from cones.bench.plan import UNTOUCHED, Plan
from cones.bench.scores import Encoders
from cones.bench.sheets import TEMPLATE, pixels, wanted
from cones.errors import SearchError, SubjectError
from cones.metrics import ImageEncoder
from cones.metrics.distance import diversity

# Many steps at a high rate: what a method can reach where nothing has to be kept.
LONG: dict[str, dict[str, Any]] = {
    "dreambooth": {"steps": 300, "rate": 3e-4, "batch": 4},
    "custom-diffusion": {"steps": 300, "rate": 3e-3},
    "lora": {"steps": 300, "rate": 1e-2, "batch": 4},
    "shira": {"steps": 300, "rate": 1e-2},
    "textual-inversion": {"steps": 300, "rate": 2e-2},
}
UNTRAINED = tuple(
    name for name in LONG if name != "textual-inversion"
)  # its word begins as noun's


def sanity_figures(
    pipeline: Any,
    folder: Path | str,
    plan: Plan,
    encoders: Encoders,
    *,
    work: Path | str,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Measure likeness by the judge after long trainings, and sameness after none.

    Args:
        pipeline: Text-to-image pipeline; its weights are as before afterwards.
        folder: Holds subject folders.
        plan: Its groups are single subjects; its ``changes`` say what long is.
        encoders: Who judges.
        work: Keeps what is done.
        on_progress: Called before every cell.

    Returns:
        Plan, settings, model and machine as :meth:`~cones.bench.evaluate.Evaluation.run` gives
        them; ``photos``, mean likeness of different photos of a subject, by subject;
        ``trained``, likeness of pictures by method and subject; ``untrained``, the share of
        pictures that are the untouched model's own, by method.

    Raises:
        SearchError: A group has several subjects.
        SubjectError: A subject has a single photo.
    """
    if any(len(group) > 1 for group in plan.groups):
        raise SearchError(f"found groups {plan.groups}; expected single subjects; name these")
    plan = replace(plan, prompts=(TEMPLATE,))
    long = Evaluation(pipeline, folder, plan, work, on_progress)
    photos = {
        name: likeness_of(each, long.size, encoders.judge) for name, each in long.photos.items()
    }
    found = long.run(encoders)
    trained: dict[str, dict[str, float]] = {}
    for row in found["rows"]:
        likeness = row["scores"]["image_alignment"]
        trained.setdefault(row["method"], {})[row["group"][0]] = likeness
    none = {n: {**plan.changes.get(n, {}), "steps": 0} for n in plan.methods if n in UNTRAINED}
    asked = replace(plan, methods=(UNTOUCHED, *none), changes={**plan.changes, **none})
    short = Evaluation(pipeline, folder, asked, work, on_progress)
    short.run(encoders)
    return {
        **{name: found[name] for name in ("plan", "settings", "model", "machine")},
        "photos": photos,
        "trained": trained,
        "untrained": {method: _same(short, method) for method in none},
    }


def likeness_of(photos: Photos, size: int, judge: ImageEncoder) -> float:
    """Give the mean cosine, by the judge, between different photos of a subject."""
    images = photos.subject(size).images
    if len(images) < 2:
        raise SubjectError(
            f"found one photo in {photos.folder}; expected at least two, to be compared with each "
            "other; add one"
        )
    return 1 - diversity(judge.images(images))


def _same(evaluation: Evaluation, method: str) -> float:
    """Count pictures of a method that are the untouched model's to the last bit."""
    cells = {(cell.method, cell.group, cell.seed): cell for cell in evaluation.cells}
    same = []
    for (name, group, seed), cell in cells.items():
        if name == method:
            pair = (cell, cells[UNTOUCHED, group, seed])
            ours, plain = (
                pixels(*wanted(each, evaluation.plan, evaluation.home(each))) for each in pair
            )
            same += [a.equal(b) for a, b in zip(ours, plain, strict=True)]
    return sum(same) / len(same)
