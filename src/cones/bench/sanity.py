"""Is a method beaten by a bug? Each on an easy subject, trained long, and not trained at all.

Trained long on one subject and asked for the prompt of its training, a method that works lowers
the loss of the photos and comes near the likeness of the photos sent through the autoencoder,
which a U-Net cannot exceed by redrawing them, whatever it forgets meanwhile. Not trained at all it
must draw what the untouched model draws, to the last bit.
"""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from cones.backbones import backbone_for
from cones.bench.cells import Notify, Photos
from cones.bench.evaluate import Evaluation
from cones.bench.plan import UNTOUCHED, Cell, Plan
from cones.bench.scores import Encoders
from cones.bench.sheets import TEMPLATE, pixels, wanted
from cones.errors import SearchError, SubjectError
from cones.metrics import ImageAlignment, ImageEncoder
from cones.metrics.distance import diversity
from cones.mini.quality import reconstructed
from cones.objective import ImplantingLoss, examples

# Many steps: what a method can reach where nothing has to be kept.
LONG: dict[str, dict[str, Any]] = {
    "dreambooth": {"steps": 1000, "rate": 1e-4, "batch": 4},
    "custom-diffusion": {"steps": 1000, "rate": 1e-3, "sizes": False},
    "lora": {"steps": 1000, "rate": 1e-3, "batch": 4},
    "shira": {"steps": 1000, "rate": 3e-3},
    "textual-inversion": {"steps": 1000, "rate": 1e-2},
}
SAMPLES = 256  # of the loss
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
    """Measure likeness by the judge and loss after long trainings, and sameness after none.

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
        ``redrawn``, that of the photos sent through the autoencoder to all photos; ``trained``
        and ``losses``, likeness of pictures and loss of the photos, by method and subject;
        ``untrained``, the share of pictures that are the untouched model's own, by method.

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
    redrawn = {
        name: redrawn_likeness(pipeline, each, long.size, encoders.judge)
        for name, each in long.photos.items()
    }
    trained: dict[str, dict[str, float]] = {}
    losses: dict[str, dict[str, float]] = {}
    for cell in long.cells:
        losses.setdefault(cell.method, {})[cell.group[0].name] = loss_of(long, cell)
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
        "redrawn": redrawn,
        "trained": trained,
        "losses": losses,
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


def redrawn_likeness(pipeline: Any, photos: Photos, size: int, judge: ImageEncoder) -> float:
    """Give the image alignment of the photos themselves, once the autoencoder has drawn them."""
    images = photos.subject(size).images
    again = reconstructed(pipeline.vae, images.to(pipeline.vae.device, pipeline.vae.dtype))
    return float(ImageAlignment(judge)(again.to(images), [images]).mean())


def loss_of(evaluation: Evaluation, cell: Cell) -> float:
    """Measure the loss of the photos (Eq. 2) on samples that no method was trained with."""
    learnt, photos = evaluation.fits.of(cell), cell.group[0]
    backbone = backbone_for(evaluation.pipeline)
    with learnt.applied(evaluation.pipeline) if learnt else nullcontext():
        subject = replace(photos.subject(evaluation.size), identifier=cell.words[0])
        parts = ImplantingLoss(backbone, examples(backbone, subject)).parts(
            {}, samples=SAMPLES, seed=cell.seed
        )
    return float(parts.subject.mean())


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
