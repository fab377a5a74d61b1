"""Compare methods on subjects: fit, draw, score, each kept as soon as it is done.

A cell is one method on one group of subjects with one seed. Its folder in ``work`` holds what the
method learnt, a PNG per prompt and image, and the scores, so that a comparison goes on wherever
it was stopped, and several processes can share it. What a picture depends on is its cell, prompt
and number alone. Three controls stand beside the methods: the untouched model, the neurons of
Cones drawn at random in every layer, and (for a single subject) another subject's neurons.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.backbones import backbone_for
from cones.bench.cells import Notify, Photos, model_key, model_shown, subject_folders
from cones.bench.ledger import digest
from cones.bench.plan import RANDOM, STRANGER, UNRELATED, UNTOUCHED, WORDS, Cell, Plan
from cones.bench.scores import Encoders, drift, scores, table
from cones.find import Step, drawn_prior
from cones.generate import sample
from cones.methods import LEARNT, METHODS, Customization, Task
from cones.methods.cones import Cones, Shut
from cones.plot import save_picture
from cones.record import machine, write_json
from cones.subject import pixels_of

UNRELATED_SEED = 10_000  # of the first of the unrelated pictures


@dataclass(frozen=True)
class Sheet:
    """Pictures of one prompt: where they lie and the seed of the first."""

    prompt: str
    paths: Sequence[Path]
    seed: int


class Evaluation:
    """A plan, a model and the folder where everything is kept.

    Args:
        pipeline: Text-to-image pipeline; as before afterwards, bit for bit.
        folder: Holds subject folders, each with photos and ``subject.json``.
        plan: What is compared.
        work: Keeps fits, pictures and scores.
        notify: Called before every cell and after every batch of pictures.
    """

    def __init__(
        self,
        pipeline: Any,
        folder: Path | str,
        plan: Plan,
        work: Path | str,
        notify: Notify | None = None,
    ) -> None:
        """Find the subjects and list the cells."""
        self.pipeline, self.plan, self.work = pipeline, plan, Path(work)
        self.notify = notify or (lambda step: None)
        names = sorted({name for group in plan.groups for name in group})
        self.photos = {photos.name: photos for photos in subject_folders(folder, names)}
        self.model = model_key(pipeline)
        self.cells = [
            Cell(method, tuple(self.photos[name] for name in group), seed)
            for group in plan.groups
            for seed in plan.seeds
            for method in plan.methods
            if method != STRANGER or (len(group) == 1 and len(self.photos) > 1)
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
        shown = {n: v for n, v in asdict(self.plan).items() if n not in ("changes", "prior")}
        settings = {n: asdict(self._method(n)) for n in self.plan.methods if n in METHODS}
        return {
            "plan": json.loads(json.dumps(shown)),
            "settings": json.loads(json.dumps(settings)),
            "model": model_shown(self.pipeline),
            "machine": machine(),
            "table": table(rows) if rows else [],
            "rows": rows,
            "missing": len(self.cells) - len(rows),
        }

    def pictures(self) -> dict[str, dict[str, list[Path]]]:
        """Give the first picture of every prompt, by group and seed, by method."""
        found: dict[str, dict[str, list[Path]]] = {}
        for cell in self.cells:
            name = " + ".join(photos.name for photos in cell.group) + f", seed {cell.seed}"
            firsts = [sheet.paths[0] for sheet in self.wanted(cell)]
            shown = [path for path in firsts if path.exists()]
            found.setdefault(name, {})[cell.method] = shown
        return found

    def home(self, cell: Cell) -> Path:
        """Give the folder of a cell; its name holds all that the cell depends on."""
        plan = self.plan
        key = {
            "model": self.model,
            "method": cell.method,
            "settings": asdict(self._method(cell.method)),
            "group": [(photos.name, photos.digest) for photos in cell.group],
            "others": self._stranger(cell).digest if cell.method == STRANGER else None,
            "seed": cell.seed,
            "prior": asdict(plan.prior),
            "pictures": [plan.prompts, UNRELATED, plan.images, plan.steps, plan.guidance],
        }
        return self.work / "cells" / f"{cell.label.replace(' ', '-')}-{digest(key)}"

    def row(self, cell: Cell, encoders: Encoders) -> dict[str, Any]:
        """Fit, draw and score one cell, or whatever of it is missing."""
        path = self.home(cell) / "scores.json"
        if (row := _read(path)) is not None:
            return row
        learnt, home = self.fitted(cell), self.home(cell)
        self.draw(self.wanted(cell) + self.unrelated(home, cell.seed), learnt)
        row = {
            "method": cell.method,
            "group": [photos.name for photos in cell.group],
            "seed": cell.seed,
            **(_read(home / "fit.json") or {}),
            "scores": self.scored(cell, encoders),
        }
        write_json(path, row)
        return row

    def fitted(self, cell: Cell) -> Customization | None:
        """Fit a method, or read what it learnt before; a control learns nothing of its own."""
        if cell.method == UNTOUCHED:
            return None
        if cell.method in (RANDOM, STRANGER):
            return self._control(cell)
        home = self.home(cell)
        if not (home / "fit.json").exists():
            shutil.rmtree(home / "learnt", ignore_errors=True)
            started = time.monotonic()
            learnt = self._method(cell.method).fit(
                self.pipeline, self.tasks(cell), seed=cell.seed, on_progress=self.notify
            )
            seconds = round(time.monotonic() - started, 1)
            size = learnt.save(home / "learnt")
            write_json(home / "fit.json", {"seconds": seconds, "bytes": size})
        return LEARNT[cell.method].load(home / "learnt")

    def tasks(self, cell: Cell) -> list[Task]:
        """Read the photos and draw the prior pictures, or find them in the cache."""
        size = backbone_for(self.pipeline).resolution
        settings = replace(self.plan.prior, seed=cell.seed)
        cache = self.work / "prior"
        return [
            Task(
                replace(photos.subject(size), identifier=word),
                drawn_prior(self.pipeline, photos.noun, settings, cache, self.notify),
            )
            for photos, word in zip(cell.group, WORDS, strict=False)
        ]

    def wanted(self, cell: Cell) -> list[Sheet]:
        """List the pictures that show the subjects."""
        names = [f"{word} {photos.noun}" for photos, word in zip(cell.group, WORDS, strict=False)]
        said = [prompt.format(" and a ".join(names)) for prompt in self.plan.prompts]
        home, count = self.home(cell), self.plan.images
        return [
            Sheet(
                prompt, [home / f"{row:02d}-{n:02d}.png" for n in range(count)], 1000 * cell.seed
            )
            for row, prompt in enumerate(said)
        ]

    def unrelated(self, folder: Path, seed: int) -> list[Sheet]:
        """List the pictures that should stay as they were."""
        return [
            Sheet(prompt, [folder / f"unrelated-{row:02d}.png"], UNRELATED_SEED + 1000 * seed)
            for row, prompt in enumerate(UNRELATED)
        ]

    def draw(self, sheets: Sequence[Sheet], learnt: Customization | None) -> None:
        """Draw what is missing; a prompt is drawn whole, so a resumed table is the same."""
        missing = [sheet for sheet in sheets if not all(path.exists() for path in sheet.paths)]
        if not missing:
            return
        for word in WORDS:
            backbone_for(self.pipeline).register(word)
        with learnt.applied(self.pipeline) if learnt else nullcontext():
            for done, sheet in enumerate(missing):
                self._draw(sheet)
                self.notify(Step("pictures", done + 1, len(missing)))

    def _draw(self, sheet: Sheet) -> None:
        plan, seeds = self.plan, [sheet.seed + n for n in range(len(sheet.paths))]
        images = sample(
            self.pipeline,
            [sheet.prompt] * len(seeds),
            seeds=seeds,
            steps=plan.steps,
            guidance=plan.guidance,
        )
        for path, image, seed in zip(sheet.paths, images, seeds, strict=True):
            settings = {"prompt": sheet.prompt, "seed": seed, "steps": plan.steps}
            save_picture(image, path, {**settings, "guidance": plan.guidance})

    def scored(self, cell: Cell, encoders: Encoders) -> dict[str, float]:
        """Score the pictures of a cell, see :func:`scores`."""
        plain = " and a ".join(photos.noun for photos in cell.group)
        prompts = [prompt.format(plain) for prompt in self.plan.prompts]
        size = backbone_for(self.pipeline).resolution
        found = scores(
            [_pixels([sheet]) for sheet in self.wanted(cell)],
            prompts,
            [photos.subject(size).images for photos in cell.group],
            encoders,
        )
        key = [self.model, UNRELATED, cell.seed, self.plan.steps, self.plan.guidance]
        before = self.unrelated(self.work / "before" / digest({"drawn": key}), cell.seed)
        self.draw(before, None)
        after = self.unrelated(self.home(cell), cell.seed)
        return found | {"drift": drift(_pixels(before), _pixels(after), encoders.judge)}

    def _method(self, name: str) -> Any:
        """Give the method with its settings; controls are those of Cones."""
        kind = METHODS.get(name, Cones)
        return kind(**self.plan.changes.get(name if name in METHODS else "cones", {}))

    def _stranger(self, cell: Cell) -> Photos:
        """Choose the next subject."""
        names = list(self.photos)
        return self.photos[names[(names.index(cell.group[0].name) + 1) % len(names)]]

    def _control(self, cell: Cell) -> Shut:
        """Give Cones' own neurons at random places, or another subject's."""
        group = (self._stranger(cell),) if cell.method == STRANGER else cell.group
        found = self.fitted(Cell("cones", group, cell.seed))
        if cell.method == STRANGER:
            return found
        draw = torch.Generator().manual_seed(cell.seed)
        return Shut(tuple(each.using(each.mask.random_like(draw)) for each in found.concepts))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _pixels(sheets: Sequence[Sheet]) -> Float[Tensor, "n 3 h w"]:
    images = []
    for path in (path for sheet in sheets for path in sheet.paths):
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return pixels_of(images)
