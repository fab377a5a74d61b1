"""Is a concept its subject's own? Every concept on the held-out samples of every subject.

A mask that merely adapts the model to pictures of this kind would help another subject as much
as its own. So every subject's loss is measured with the concept neurons of each subject shut, on
the same samples: the paper lacks this control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cones.backbones import backbone_for
from cones.bench.cells import (
    Finder,
    Notify,
    Photos,
    measured,
    model_shown,
    searched,
    settings_shown,
    subject_folders,
)
from cones.bench.interval import interval
from cones.certificate import closed, means_of
from cones.errors import SubjectError
from cones.find import Settings, find, loss_of
from cones.mask import ConceptMask
from cones.record import machine

LOSSES = ("subject", "prior", "loss")


def strangers_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1),
    settings: Settings | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Measure every subject's loss with every subject's concept.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished cells and concepts; those of ``cones bench search`` at the same
            settings are used again.
        subjects: Names of the folders to use, at least two; None uses all.
        seeds: Of the searches and of the held-out samples.
        settings: How to search.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, seeds, model, machine, a row per subject and seed (the losses by owner of the
        concept), and the summary of :func:`strangers_summary`.

    Raises:
        SubjectError: There is only one subject.
    """
    work, settings = Path(work), settings or Settings()
    chosen = subject_folders(folder, subjects)
    if len(chosen) < 2:
        raise SubjectError("found one subject, expected at least two to compare; name more")

    @lru_cache(maxsize=1)  # cells come seed by seed
    def masks_of(asked: Settings) -> dict[str, ConceptMask]:
        return {
            owner.name: searched(pipeline, owner, asked, work=work, finder=finder).mask
            for owner in chosen
        }

    def measure(photos: Photos, asked: Settings) -> dict[str, Any]:
        masks = masks_of(asked)
        backbone = backbone_for(pipeline)
        subject = photos.subject(backbone.resolution)
        loss, _ = loss_of(pipeline, subject, asked, cache_dir=work / "prior")
        weights = backbone.weights(asked.scope)
        nobody = ConceptMask.empty(next(iter(masks.values())).shapes)
        return {
            "subject": photos.name,
            "noun": photos.noun,
            "seed": asked.seed,
            "losses": {
                owner: means_of(
                    loss.parts(closed(weights, mask), samples=asked.held_out, seed=asked.seed)
                )
                for owner, mask in {"": nobody, **masks}.items()
            },
        }

    cells = [(photos, replace(settings, seed=seed)) for seed in seeds for photos in chosen]
    everyone = {"everyone": [[photos.name, photos.digest] for photos in chosen]}
    rows = measured("strangers", pipeline, cells, measure, work, on_progress, everyone)
    return {
        "settings": settings_shown(settings, "seed"),
        "subjects": [photos.name for photos in chosen],
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": strangers_summary(rows),
        "rows": rows,
    }


def strangers_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare each subject's own concept with those of the others.

    Returns:
        Per loss: ``own`` and ``strangers``, the change from the untouched model, and
        ``own_minus_strangers``, each with its interval; ``rank``, the mean place of the own
        concept among all by subject loss (1 is best), and ``chance``, that of a concept drawn
        blindly; ``best``, how often the own concept is first.
    """
    found: dict[str, Any] = {}
    for name in LOSSES:
        own, others, gap = {}, {}, {}
        for row in rows:
            losses, subject = row["losses"], row["subject"]
            before = losses[""][name]
            rest = [losses[who][name] for who in losses if who not in ("", subject)]
            stranger = sum(rest) / len(rest)
            own.setdefault(subject, []).append(losses[subject][name] - before)
            others.setdefault(subject, []).append(stranger - before)
            gap.setdefault(subject, []).append(losses[subject][name] - stranger)
        found[name] = {
            "own": interval(own),
            "strangers": interval(others),
            "own_minus_strangers": interval(gap),
        }
    places = [_place(row) for row in rows]
    return found | {
        "rank": sum(places) / len(places),
        "chance": len(rows[0]["losses"]) / 2,  # (1 + number of concepts) / 2; one entry is nobody
        "best": sum(place == 1 for place in places),
        "of": len(places),
    }


def _place(row: Mapping[str, Any]) -> int:
    losses = {who: each["subject"] for who, each in row["losses"].items() if who}
    return 1 + sum(loss < losses[row["subject"]] for loss in losses.values())
