"""Does the precision of the values matter? Fig. 3, in figures and beside its controls.

The values of a concept's neurons are learnt in every precision by the same updates on the same
samples, and measured on samples that neither the search nor the training drew. Beside them stand
the untouched model, shutting (the paper's "binary", which learns nothing) and values learnt in
float32 at random positions, as many in every site: what the choice of the neurons is worth.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from cones.backbones import backbone_for
from cones.bench.cells import (
    Finder,
    Notify,
    Photos,
    cell_key,
    model_key,
    model_shown,
    searched,
    settings_shown,
    subject_folders,
)
from cones.bench.interval import average, paired
from cones.bench.ledger import Ledger, digest
from cones.bench.plan import RANDOM, UNTOUCHED
from cones.bench.search import Pictures, Scorer, controls, scored
from cones.certificate import means_of
from cones.concept import Concept
from cones.concept_file import dumps, load, save
from cones.errors import SearchError
from cones.find import Settings, Step, find, loss_of
from cones.objective import ImplantingLoss
from cones.precision import PRECISIONS, Values
from cones.record import machine
from cones.subject import Subject
from cones.values import RATE, SHUT, STEPS, filled, optimised

SIDES = (UNTOUCHED, SHUT, *PRECISIONS, RANDOM)
LEARNT = (*PRECISIONS, RANDOM)
REFERENCES = (UNTOUCHED, SHUT, "float32", RANDOM)


@dataclass(frozen=True)
class Training:
    """How the values are learnt.

    Attributes:
        steps: Updates.
        rate: Learning rate.
    """

    steps: int = STEPS
    rate: float = RATE


@dataclass(frozen=True, eq=False)
class _Case:
    """One subject with one seed: what all sides of it share."""

    photos: Photos
    settings: Settings
    subject: Subject
    concept: Concept
    loss: ImplantingLoss


@dataclass(frozen=True, eq=False)
class _Study:
    """What is measured of every case, and where it is kept."""

    pipeline: Any
    work: Path
    score: Scorer | None
    training: Training
    pictures: Pictures
    finder: Finder

    @cached_property
    def model(self) -> str:
        return model_key(self.pipeline)

    def key(self, photos: Photos, settings: Settings, side: str) -> dict[str, Any]:
        """Gather all that the figures of one side depend on."""
        found = {**cell_key("precision", self.model, photos, settings), "side": side}
        if self.score is not None:
            found |= {"pictures": asdict(self.pictures), "scores": list(self.score.figures)}
        return found | ({"training": asdict(self.training)} if side in LEARNT else {})

    def case(self, photos: Photos, settings: Settings) -> _Case:
        """Search, or read what was found before, and prepare the loss."""
        concept = searched(self.pipeline, photos, settings, work=self.work, finder=self.finder)
        subject = photos.subject(backbone_for(self.pipeline).resolution)
        loss, _ = loss_of(self.pipeline, subject, settings, cache_dir=self.work / "prior")
        return _Case(photos, settings, subject, concept, loss)

    def cell(self, case: _Case, side: str) -> dict[str, Any]:
        """Measure one side of a case on held-out samples, and in pictures if they are judged."""
        settings, started = case.settings, time.monotonic()
        concept = self._concept(case, side)
        seconds = round(time.monotonic() - started, 1)
        weights = backbone_for(self.pipeline).weights(settings.scope)
        numbers = None if concept.values is None else concept.values.numbers
        weights = filled(weights, concept.mask, numbers)
        parts = case.loss.parts(weights, samples=settings.held_out, seed=settings.seed)
        found: dict[str, Any] = dict(means_of(parts))
        if side != UNTOUCHED:
            found["bytes"] = len(dumps(concept))
        if self.score is not None:
            found |= scored(
                self.pipeline,
                concept,
                case.subject,
                self.pictures,
                self.score,
                seed=settings.seed,
            )
        density = case.concept.mask.density
        return {"density": density, "figures": found, "seconds": seconds}

    def _concept(self, case: _Case, side: str) -> Concept:
        """Give the concept of one side, its values learnt or read from where they were kept."""
        plain = replace(case.concept, certificate={})
        sides = controls(plain, seed=case.settings.seed)
        if side not in LEARNT:
            return sides[side]
        name = f"{case.photos.name}-{side}-{digest(self._values_key(case, side))}"
        kept = self.work / "values" / f"{name}.cones.safetensors"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            save(self._learnt(sides[RANDOM if side == RANDOM else SHUT], case, side), kept)
        return load(kept)

    def _values_key(self, case: _Case, side: str) -> dict[str, Any]:
        key = self.key(case.photos, case.settings, side)
        return {name: value for name, value in key.items() if name not in ("pictures", "scores")}

    def _learnt(self, concept: Concept, case: _Case, side: str) -> Concept:
        """Learn the values on samples that follow those of the search."""
        asked = case.settings
        first = asked.steps + asked.refine_steps
        precision = "float32" if side == RANDOM else side
        found = optimised(
            lambda step: case.loss.at(first + step, seed=asked.seed),
            backbone_for(self.pipeline).weights(asked.scope),
            concept.mask,
            precision=precision,
            **asdict(self.training),
        )
        valued = concept.valued(Values(precision, found.values))
        return replace(valued, settings={**concept.settings, "values": asdict(self.training)})


def precision_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    score: Scorer | None = None,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1),
    settings: Settings | None = None,
    training: Training | None = None,
    pictures: Pictures | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Learn and measure the values of every subject's neurons in every precision.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished cells, concepts and files with values; the concepts of ``cones bench
            search`` at the same settings are used again.
        score: Judges pictures, see :class:`cones.bench.search.Judged`; None draws none.
        subjects: Names of the folders to use; None uses all.
        seeds: Of the searches, samples, random positions and pictures.
        settings: How to search.
        training: How to learn the values.
        pictures: What to draw.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, seeds, model, machine, a row per subject and seed with the figures of every side
        of :data:`SIDES`, and the summary of :func:`precision_summary`.
    """
    settings, chosen = settings or Settings(), subject_folders(folder, subjects)
    training, pictures = training or Training(), pictures or Pictures()
    study = _Study(pipeline, Path(work), score, training, pictures, finder)
    rows = _rows(study, chosen, [replace(settings, seed=seed) for seed in seeds], on_progress)
    return {
        "settings": settings_shown(settings, "seed"),
        "training": asdict(training),
        "pictures": asdict(pictures) if score is not None else None,
        "subjects": [photos.name for photos in chosen],
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": precision_summary(rows),
        "rows": rows,
    }


def _rows(
    study: _Study, chosen: list[Photos], asked: list[Settings], notify: Notify | None
) -> list[dict[str, Any]]:
    """Give a row per subject and seed, measuring only what the work folder does not remember."""
    ledger = Ledger(study.work / "precision.jsonl")
    rows, done, total = [], 0, len(chosen) * len(asked) * len(SIDES)
    for photos, settings in ((photos, each) for photos in chosen for each in asked):
        row: dict[str, Any] = {"subject": photos.name, "noun": photos.noun, "seed": settings.seed}
        row["seconds"] = {}
        case = cache(partial(study.case, photos, settings))  # made if a side is still missing
        for side in SIDES:
            done += 1
            if notify:
                notify(Step("precision", done, total))
            key = study.key(photos, settings, side)
            cell = ledger.get(key, lambda c=case, s=side: study.cell(c(), s))
            row |= {"density": cell["density"], side: cell["figures"]}
            row["seconds"][side] = cell["seconds"]
        rows.append(row)
    return rows


def precision_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average every side over subjects and seeds, and its differences from the references.

    Returns:
        ``means`` by side and figure; ``differences`` by reference of :data:`REFERENCES`, side and
        figure, paired and with intervals; ``density``, that of the concepts.

    Raises:
        SearchError: There are no rows.
    """
    if not rows:
        raise SearchError("found no rows, expected at least one subject and seed; name some")
    figures = [name for name in rows[0][UNTOUCHED] if all(name in row[UNTOUCHED] for row in rows)]
    means = {side: {name: average(rows, side, name) for name in figures} for side in SIDES}
    for side in SIDES[1:]:
        means[side]["bytes"] = average(rows, side, "bytes")
    return {
        "means": means,
        "differences": {
            reference: {
                side: {name: paired(rows, side, reference, name) for name in figures}
                for side in SIDES
                if side != reference
            }
            for reference in REFERENCES
        },
        "density": sum(row["density"] for row in rows) / len(rows),
    }
