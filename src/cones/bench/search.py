"""The main job over many subjects: held-out losses and an independent judge's view of pictures.

Every subject and seed is searched once at the given settings. Untouched model, concept and a
random mask with as many neurons in every site are then compared on the same held-out samples, and
in pictures drawn from the same prompts and noise.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cones.backbones import backbone_for
from cones.bench.cells import (
    Finder,
    Notify,
    measured,
    model_shown,
    search_cell,
    settings_shown,
    subject_folders,
)
from cones.bench.interval import average, paired
from cones.concept import Concept
from cones.errors import SearchError
from cones.find import Settings, find
from cones.generate import generate
from cones.mask import ConceptMask
from cones.metrics import Encoder, ImageAlignment, ImageEncoder, TextAlignment
from cones.record import machine
from cones.subject import Subject, pixels_of

PROMPTS = (
    "a photo of a {} on a beach",
    "a {} in the snow",
    "a photo of a {} in a room",
    "a {} on a road",
)
SIDES = ("untouched", "shut", "random")


@dataclass(frozen=True)
class Pictures:
    """What is drawn of every subject and seed, by each of the three.

    Attributes:
        prompts: With ``{}`` in the place of the subject.
        count: Pictures of every prompt.
        steps: Sampling steps (DPM-Solver).
        guidance: Scale of classifier-free guidance.
        seed: Of the first picture of a prompt; a search's seed moves it by 1,000.
    """

    prompts: tuple[str, ...] = PROMPTS
    count: int = 4
    steps: int = 20
    guidance: float = 7.5
    seed: int = 0


@runtime_checkable
class Scorer(Protocol):
    """Scores pictures of a subject; ``figures`` names what it returns."""

    figures: tuple[str, ...]

    def __call__(
        self, pixels: Float[Tensor, "n 3 h w"], prompts: Sequence[str], photos: Tensor
    ) -> Mapping[str, float]:
        """Average over the pictures."""
        ...


class Judged:
    """Score pictures by the judge against the photos and, with a CLIP, against their prompts.

    Args:
        judge: An image encoder, see :func:`cones.metrics.load_judge`.
        clip: An encoder of pictures and texts, or None to do without.
    """

    def __init__(self, judge: ImageEncoder, clip: Encoder | None = None) -> None:
        """Keep both."""
        self.judge, self.clip = judge, clip
        self.figures = ("image_alignment", "text_alignment")[: 1 if clip is None else 2]

    def __call__(
        self, pixels: Float[Tensor, "n 3 h w"], prompts: Sequence[str], photos: Tensor
    ) -> dict[str, float]:
        """Average over the pictures."""
        found = {"image_alignment": float(ImageAlignment(self.judge)(pixels, [photos]).mean())}
        if self.clip is not None:
            found["text_alignment"] = float(TextAlignment(self.clip)(pixels, prompts).mean())
        return found


def search_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    score: Scorer | None,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1),
    settings: Settings | None = None,
    pictures: Pictures | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Search every subject with every seed and compare it with both controls.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished cells; the same call goes on from there.
        score: Judges pictures, see :class:`Judged`; None draws none.
        subjects: Names of the folders to use; None uses all.
        seeds: Of the searches, their held-out samples and the pictures.
        settings: How to search.
        pictures: What to draw.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, seeds, model, machine, a row per cell, and the summary of :func:`search_summary`.
    """
    work, settings, pictures = Path(work), settings or Settings(), pictures or Pictures()
    chosen = subject_folders(folder, subjects)
    cells = [(photos, replace(settings, seed=seed)) for photos in chosen for seed in seeds]

    def measure(photos: Any, asked: Settings) -> dict[str, Any]:
        row, concept = search_cell(pipeline, photos, asked, work=work, finder=finder)
        if score is not None:
            subject = photos.subject(backbone_for(pipeline).resolution)
            started = time.monotonic()
            _add_scores(row, pipeline, concept, subject, pictures, score)
            row["seconds"]["pictures"] = round(time.monotonic() - started, 1)
        return row

    drawn = {}
    if score is not None:
        drawn = {"pictures": asdict(pictures), "scores": list(score.figures)}
    rows = measured("search", pipeline, cells, measure, work, on_progress, drawn)
    return {
        "settings": settings_shown(settings, "seed"),
        "pictures": asdict(pictures) if score is not None else None,
        "subjects": [photos.name for photos in chosen],
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": search_summary(rows),
        "rows": rows,
    }


def controls(concept: Concept, *, seed: int) -> dict[str, Concept]:
    """Give the three that are compared; the random mask is the one of the certificate."""
    shapes = concept.mask.shapes
    draw = torch.Generator().manual_seed(seed)
    masks = {
        "untouched": ConceptMask.empty(shapes),
        "shut": concept.mask,
        "random": concept.mask.random_like(draw),
    }
    return {side: concept.using(mask) for side, mask in masks.items()}


def _add_scores(
    row: dict[str, Any],
    pipeline: Any,
    concept: Concept,
    subject: Subject,
    pictures: Pictures,
    score: Scorer,
) -> None:
    """Draw with each of the three, from the same noise, and put their scores into the row."""
    for side, drawn in controls(concept, seed=row["seed"]).items():
        row[side] |= scored(pipeline, drawn, subject, pictures, score, seed=row["seed"])


def scored(
    pipeline: Any,
    concept: Concept,
    subject: Subject,
    pictures: Pictures,
    score: Scorer,
    *,
    seed: int,
) -> Mapping[str, float]:
    """Draw with a concept and judge; the same ``seed`` means the same noise."""
    prompts = [prompt.format(subject.name) for prompt in pictures.prompts]
    plain = [prompt.format(subject.noun) for prompt in pictures.prompts]
    images = generate(
        pipeline,
        [concept],
        prompts,
        seed=pictures.seed + 1000 * seed,
        steps=pictures.steps,
        guidance=pictures.guidance,
        count=pictures.count,
    )
    pixels = pixels_of([image.convert("RGB") for image in images])
    each = [said for said in plain for _ in range(pictures.count)]
    return score(pixels, each, subject.images)


def search_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average over subjects and seeds, count wins, and give paired differences.

    A subject counts as lower if the mean over its seeds is.

    Raises:
        SearchError: There are no rows.
    """
    if not rows:
        raise SearchError("found no rows, expected at least one subject and seed; name some")
    figures = [name for name in rows[0]["shut"] if all(name in row["shut"] for row in rows)]
    names = list(dict.fromkeys(row["subject"] for row in rows))
    mean = {
        (side, name): sum(row[side]["subject"] for row in rows if row["subject"] == name)
        for side in SIDES
        for name in names
    }
    wins = {
        f"shut_below_{side}": {
            "subjects": sum(mean["shut", name] < mean[side, name] for name in names),
            "of_subjects": len(names),
            "pairs": sum(row["shut"]["subject"] < row[side]["subject"] for row in rows),
            "of_pairs": len(rows),
        }
        for side in ("untouched", "random")
    }
    return {
        "means": {side: {f: average(rows, side, f) for f in figures} for side in SIDES},
        "differences": _differences(rows, figures),
        "by_seed": {
            str(seed): _differences([row for row in rows if row["seed"] == seed], figures)
            for seed in sorted({row["seed"] for row in rows})
        },
        "wins": wins,
        "density": sum(row["density"] for row in rows) / len(rows),
        "seconds": {
            name: sum(row["seconds"].get(name) or 0 for row in rows) / len(rows)
            for name in rows[0]["seconds"]
        },
    }


def _differences(rows: Sequence[Mapping], figures: Sequence[str]) -> dict[str, Any]:
    return {
        f"shut_minus_{side}": {name: paired(rows, "shut", side, name) for name in figures}
        for side in ("untouched", "random")
    }
