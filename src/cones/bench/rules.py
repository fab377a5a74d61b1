"""Which rule finds the best mask: every rule, the same density, subjects and seeds.

The figure that decides is the change of the loss (Eq. 4) on samples that no search used, after
shutting; the rules of one subject and seed see the same samples, before and after.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cones.bench.cells import (
    Finder,
    Notify,
    Photos,
    measured,
    model_shown,
    search_cell,
    settings_shown,
    subject_folders,
)
from cones.bench.interval import average, paired
from cones.find import DENSITY, Settings, find
from cones.record import machine
from cones.rules import REFINING, RULES

LOSSES = ("subject", "prior", "loss")


def rules_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    rules: Sequence[str] = tuple(RULES),
    density: float = DENSITY,
    settings: Settings | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Compare the rules at one density over subjects and seeds.

    All rules take the same number of gradients: those that do not refine score with the
    ``refine_steps`` as well.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished cells; the same call goes on from there.
        subjects: Names of the folders to use; None uses all.
        seeds: Of the searches and their held-out samples.
        rules: Names in :data:`cones.rules.RULES`.
        density: Of every mask.
        settings: Everything else.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, seeds, model, machine, a row per cell, and a table with one entry per rule.
    """
    work, settings = Path(work), settings or Settings()
    settings = replace(settings, density=density, levels=False)
    chosen = subject_folders(folder, subjects)
    whole = settings.steps + settings.refine_steps
    budget = {rule: settings.steps if rule in REFINING else whole for rule in rules}
    cells = [
        (photos, replace(settings, rule=rule, seed=seed, steps=budget[rule]))
        for photos in chosen
        for seed in seeds
        for rule in rules
    ]

    def measure(photos: Photos, asked: Settings) -> dict[str, Any]:
        return search_cell(pipeline, photos, asked, work=work, finder=finder)[0]

    rows = measured("rules", pipeline, cells, measure, work, on_progress)
    return {
        "settings": settings_shown(settings, "rule", "seed"),
        "density": density,
        "subjects": [photos.name for photos in chosen],
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "table": rules_table(rows),
        "rows": rows,
    }


def rules_table(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average rows rule by rule, the best change of the loss first."""
    table = {}
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = [row for row in rows if row["rule"] == rule]
        table[rule] = {
            "untouched": {name: average(own, "untouched", name)["mean"] for name in LOSSES},
            "shut": {name: average(own, "shut", name)["mean"] for name in LOSSES},
            "change": {name: paired(own, "shut", "untouched", name) for name in LOSSES},
            "beats_random": paired(own, "shut", "random", "loss"),
            "seconds": sum(row["seconds"]["find"] or 0 for row in own) / len(own),
        }
    return dict(sorted(table.items(), key=lambda item: item[1]["change"]["loss"]["mean"]))
