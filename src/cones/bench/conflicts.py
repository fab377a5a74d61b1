"""Does the conflict predicted from two files say anything about the one that is measured?

All pairs of subjects, each searched once. Predicted: the crowding of one concept's rows by the
other. Measured: how much the loss of a subject's photos rises when the other's neurons are shut
too, and how much more than with random neurons of equal number in every layer.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
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
from cones.bench.correlation import correlation
from cones.bench.interval import interval
from cones.concept import Concept
from cones.conflicts import PREDICTORS, predicted, subject_loss
from cones.conflicts import measured as measure_all
from cones.errors import SubjectError
from cones.find import Settings, find
from cones.record import machine

FIGURES = (*PREDICTORS, "jaccard")
OUTCOMES = ("rise", "beyond_random", "random")


def conflicts_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    subjects: Sequence[str] | None = None,
    samples: int = 64,
    settings: Settings | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Predict and measure the conflict of every pair of subjects.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished cells and concepts; those of ``cones bench search`` at the same
            settings are used again.
        subjects: Names of the folders to use, at least three; None uses all.
        samples: Held-out samples of every loss.
        settings: How to search, its seed included.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every subject.

    Returns:
        Settings, model, machine, ``rows`` (a subject each: what every other did to it), ``pairs``
        (predicted and measured, both directions averaged) and ``summary``.

    Raises:
        SubjectError: There are fewer than three subjects.
    """
    work, settings = Path(work), settings or Settings()
    chosen = subject_folders(folder, subjects)
    if len(chosen) < 3:
        raise SubjectError(f"found {len(chosen)} subjects; expected three or more; name more")

    @lru_cache(maxsize=1)
    def concepts() -> dict[str, Concept]:
        return {p.name: searched(pipeline, p, settings, work=work, finder=finder) for p in chosen}

    def measure(photos: Photos, asked: Settings) -> dict[str, Any]:
        backbone, own = backbone_for(pipeline), concepts()[photos.name]
        loss = subject_loss(pipeline, photos.subject(backbone.resolution), own)
        found = measure_all(
            loss,
            backbone.weights(asked.scope),
            own.mask,
            {name: each.mask for name, each in concepts().items() if name != photos.name},
            samples=samples,
            seed=asked.seed,
        )
        return {"subject": photos.name, "noun": photos.noun, **found}

    more = {"everyone": [[p.name, p.digest] for p in chosen], "samples": samples}
    cells = [(photos, settings) for photos in chosen]
    rows = measured("conflicts", pipeline, cells, measure, work, on_progress, more)
    pairs = _pairs(rows, concepts())
    return {
        "settings": settings_shown(settings),
        "samples": samples,
        "subjects": [photos.name for photos in chosen],
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": conflicts_summary(rows, pairs),
        "pairs": pairs,
        "rows": rows,
    }


def _pairs(
    rows: Sequence[Mapping[str, Any]], concepts: Mapping[str, Concept]
) -> list[dict[str, Any]]:
    """Put prediction and measurement of each pair side by side, directions averaged."""
    by_name, found = {row["subject"]: row for row in rows}, []
    for a, b in combinations(sorted(by_name), 2):
        said = predicted(concepts[a].mask, concepts[b].mask)
        both = [_changes(by_name[x], y) for x, y in ((a, b), (b, a))]
        found.append(
            {
                "of": [a, b],
                **{key: said[key] for key in ("shared", "expected", "jaccard", "z")},
                "jaccard_by_chance": said["jaccard_by_chance"],
                **{k: (said["on_first"][k] + said["on_second"][k]) / 2 for k in PREDICTORS},
                **{key: (both[0][key] + both[1][key]) / 2 for key in OUTCOMES},
            }
        )
    return found


def _changes(row: Mapping[str, Any], other: str) -> dict[str, float]:
    """Say how the loss of a subject rises when the other's, or random, neurons are shut too."""
    found = row["with"][other]
    return {
        "rise": found["union"] - row["alone"],
        "random": found["random"] - row["alone"],
        "beyond_random": found["union"] - found["random"],
    }


def conflicts_summary(
    rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Average the measured changes and correlate every prediction with every one of them.

    Returns:
        ``gain``, what a subject's own neurons change; per outcome its mean over the directed
        pairs, with an interval over subjects; ``correlations``, outcome -> prediction; ``worse``,
        in how many of the ``of`` directed pairs the loss rose more than with random neurons, and
        ``clearly``, by more than two standard errors.
    """
    changes: dict[str, dict[str, list[float]]] = {key: {} for key in OUTCOMES}
    worse = clearly = 0
    for row in rows:
        for other, each in row["with"].items():
            found = _changes(row, other)
            for key in OUTCOMES:
                changes[key].setdefault(row["subject"], []).append(found[key])
            worse += found["beyond_random"] > 0
            clearly += found["beyond_random"] > 2 * each["error"]
    of = {key: {tuple(pair["of"]): pair[key] for pair in pairs} for key in (*FIGURES, *OUTCOMES)}
    return {
        "gain": interval({row["subject"]: [row["alone"] - row["untouched"]] for row in rows}),
        **{key: interval(values) for key, values in changes.items()},
        "worse": worse,
        "clearly": clearly,
        "of": sum(len(row["with"]) for row in rows),
        "correlations": {
            outcome: {name: correlation(of[name], of[outcome]) for name in FIGURES}
            for outcome in OUTCOMES
        },
    }
