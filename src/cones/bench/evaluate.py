"""Compare methods on subjects: fit, draw, score, each kept as soon as it is done.

A cell is one method on one group of subjects with one seed. Its folder in ``work`` holds a PNG
per prompt and image, and the scores; what the method learnt lies beside it
(:mod:`cones.bench.fits`). So a comparison goes on wherever it was stopped, and several processes
can share it. What a picture depends on is its cell, prompt and number alone. Three controls stand
beside the methods: the untouched model, the neurons of Cones drawn at random in every layer, and
(for a single subject) another subject's neurons.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cones.backbones import backbone_for
from cones.bench import sheets
from cones.bench.cells import Notify, Photos, model_shown, subject_folders
from cones.bench.fits import Fits, prior_shown
from cones.bench.ledger import digest
from cones.bench.plan import KIND, STRANGER, UNRELATED, WORDS, Cell, Plan
from cones.bench.scores import (
    Encoders,
    Once,
    by_kind,
    drift,
    scores,
    shown,
    table,
    template_scores,
)
from cones.bench.sheets import Sheet, pixels
from cones.find import Step
from cones.methods import METHODS, SEVERAL, Customization
from cones.metrics import Presence
from cones.record import machine, write_json


class Evaluation:
    """A plan, a model and the folder where everything is kept.

    Args:
        pipeline: Text-to-image pipeline; takes the words of the plan, its weights stay.
        folder: Holds subject folders, each with photos and ``subject.json``. Those that no group
            names serve as what a picture could show instead.
        plan: What is compared.
        work: Keeps fits, pictures and scores.
        notify: Called before every cell and after every batch of pictures.
        looks: Folders of other things of the subjects' nouns, in the same layout, which a picture
            of a single subject must not be taken for; None does not ask.
    """

    def __init__(
        self,
        pipeline: Any,
        folder: Path | str,
        plan: Plan,
        work: Path | str,
        notify: Notify | None = None,
        looks: Path | str | None = None,
    ) -> None:
        """Find the subjects and list the cells."""
        self.pipeline, self.plan, self.work = pipeline, plan, Path(work)
        self.notify = notify or (lambda step: None)
        names = sorted({name for group in plan.groups for name in group})
        self.photos = {photos.name: photos for photos in subject_folders(folder, names)}
        self.everyone = subject_folders(folder)
        self.looks = [] if looks is None else subject_folders(looks)
        backbone = backbone_for(pipeline)
        for word in WORDS:  # always all, in this order: the order decides what a word starts as
            backbone.register(word)
        self.fits = Fits(pipeline, plan, self.photos, self.work, self.notify)
        self.model, self.size = self.fits.model, self.fits.size
        words = plan.words
        self.cells = [
            Cell(method, tuple(self.photos[name] for name in group), words[group], seed)
            for group in plan.groups
            for seed in plan.seeds
            for method in plan.methods
            if _applies(method, len(group), len(self.photos))
        ]

    def run(self, encoders: Encoders, *, shard: tuple[int, int] = (0, 1)) -> dict[str, Any]:
        """Do every cell of a shard that is not done, and give the figures of all that are.

        Args:
            encoders: Who judges.
            shard: This process' number and how many share the work folder.

        Returns:
            The plan, the settings of every method, model and machine, the table, a row per cell,
            and how many cells are missing.
        """
        number, count = shard
        mine = self.cells[number::count]
        for done, cell in enumerate(mine):
            self.notify(Step("cells", done, len(mine)))
            self.row(cell, encoders)
        self.notify(Step("cells", len(mine), len(mine)))
        return self.figures()

    def figures(self) -> dict[str, Any]:
        """Gather the rows of all cells that are done, the table and what they depend on."""
        rows = [row for cell in self.cells if (row := _read(self.home(cell) / "scores.json"))]
        told = {n: v for n, v in asdict(self.plan).items() if n not in ("changes", "prior")}
        settings = {n: asdict(self.fits.method(n)) for n in self.plan.methods if n in METHODS}
        return {
            "plan": json.loads(json.dumps(told)),
            "settings": json.loads(json.dumps(settings)),
            "candidates": [photos.name for photos in self.everyone],
            "model": model_shown(self.pipeline),
            "machine": machine(),
            "table": table(rows, self.plan.left_out) if rows else [],
            "rows": rows,
            "missing": len(self.cells) - len(rows),
        }

    def pictures(self) -> dict[str, dict[str, list[Path]]]:
        """Give the first picture of every prompt, by group and seed, by method."""
        found: dict[str, dict[str, list[Path]]] = {}
        for cell in self.cells:
            name = " + ".join(photos.name for photos in cell.group) + f", seed {cell.seed}"
            firsts = [sheet.paths[0] for sheet in sheets.wanted(cell, self.plan, self.home(cell))]
            there = [path for path in firsts if path.exists()]
            found.setdefault(name, {})[cell.method] = there
        return found

    def home(self, cell: Cell) -> Path:
        """Give the folder of a cell; its name holds all that the cell depends on."""
        plan = self.plan
        key = {
            "model": self.model,
            "method": cell.method,
            "settings": asdict(self.fits.method(cell.method)),
            "group": [(photos.name, photos.digest) for photos in cell.group],
            "words": cell.words,
            "others": self.fits.stranger(cell).digest if cell.method == STRANGER else None,
            "candidates": [photos.digest for photos in (*self.everyone, *self._alike(cell))],
            "seed": cell.seed,
            "prior": prior_shown(plan.prior),
            "pictures": [plan.prompts, UNRELATED, plan.images, plan.steps, plan.guidance],
        }
        return self.work / "cells" / f"{cell.label.replace(' ', '-')}-{digest(key)}"

    def row(self, cell: Cell, encoders: Encoders) -> dict[str, Any]:
        """Fit, draw and score one cell, or whatever of it is missing."""
        path = self.home(cell) / "scores.json"
        if (row := _read(path)) is not None:
            return row
        self.draw(self.sheets(cell, self.home(cell)), self.fits.of(cell))
        row = {
            "method": cell.method,
            "group": [photos.name for photos in cell.group],
            "seed": cell.seed,
            **self.fits.told(cell),
            "scores": self.scored(cell, encoders),
        }
        write_json(path, row)
        return row

    def sheets(self, cell: Cell, home: Path) -> list[Sheet]:
        """List all pictures of a cell."""
        found = sheets.wanted(cell, self.plan, home) + sheets.unrelated(home, cell.seed)
        return found + (sheets.template(cell, self.plan, home) if len(cell.group) == 1 else [])

    def draw(self, wanted: Sequence[Sheet], learnt: Customization | None) -> None:
        """Draw what is missing."""
        missing = [
            batch for batch in sheets.batches(wanted) if not all(sheet.done for sheet in batch)
        ]
        if not missing:
            return
        with learnt.applied(self.pipeline) if learnt else nullcontext():
            for done, batch in enumerate(missing):
                sheets.draw(self.pipeline, batch, self.plan)
                self.notify(Step("pictures", done + 1, len(missing)))

    def scored(self, cell: Cell, encoders: Encoders) -> dict[str, float]:
        """Score the pictures of a cell, see :mod:`cones.bench.scores`."""
        plan, home = self.plan, self.home(cell)
        encoders = Encoders(Once(encoders.judge), Once(encoders.clip))
        pictures = [pixels(sheet) for sheet in sheets.wanted(cell, plan, home)]
        prompts = [prompt.format(cell.plain) for prompt in plan.prompts]
        photos = [each.subject(self.size).images for each in cell.group]
        names = [each.name for each in cell.group]
        parts = len(names) > 1  # of a single thing the whole picture says as much
        found = scores(pictures, prompts, photos, encoders)
        kinds = [KIND.get(prompt) for prompt in plan.prompts]
        found |= by_kind(pictures, prompts, kinds, photos, encoders)
        found |= shown(pictures, names, Presence(encoders.judge, self.candidates, parts))
        key = [
            self.model,
            UNRELATED,
            cell.seed,
            plan.images,
            plan.steps,
            plan.guidance,
        ]
        base = self.work / "before" / digest({"drawn": key})
        before, after = (sheets.unrelated(folder, cell.seed) for folder in (base, home))
        if len(names) == 1:
            told, untold = sheets.template(cell, plan, home)
            plain = sheets.template(cell, plan, base / cell.plain)[1]
            self.draw([plain], None)
            found |= template_scores(
                pixels(told), pixels(untold), pixels(plain), photos[0], encoders.judge
            )
        if alike := self._alike(cell):
            known = {each.name: each.subject(self.size).images for each in (*cell.group, *alike)}
            nearest = Presence(encoders.judge, known, parts=False)
            found["recognition"] = shown(pictures, names, nearest)["present"]
        self.draw(before, None)
        return found | {"drift": drift(pixels(*before), pixels(*after), encoders.judge)}

    @cached_property
    def candidates(self) -> dict[str, torch.Tensor]:
        """Read the photos of all subjects of the folder."""
        return {photos.name: photos.subject(self.size).images for photos in self.everyone}

    def _alike(self, cell: Cell) -> list[Photos]:
        """List the looks that a single subject can be taken for."""
        nouns = [photos.noun for photos in cell.group]
        return [look for look in self.looks if nouns == [look.noun]]


def _applies(method: str, size: int, subjects: int) -> bool:
    """Leave out what would only repeat another row."""
    if method == STRANGER:
        return size == 1 and subjects > 1
    return size > 1 or method not in SEVERAL


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
