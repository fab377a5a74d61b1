"""What methods learn of the subjects of a plan, kept so that nothing is learnt twice.

A fit depends on the model, the method with its settings, the photos, words and seed, never on
what is drawn with it: more prompts or pictures are drawn with what was learnt before. Controls
learn nothing of their own: they are the neurons of Cones, at random places or another subject's.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from cones.backbones import backbone_for
from cones.bench.cells import Notify, Photos, model_key
from cones.bench.ledger import digest
from cones.bench.plan import RANDOM, STRANGER, UNTOUCHED, Cell, Plan
from cones.find import Settings, drawn_prior
from cones.methods import LEARNT, METHODS, Customization, Task
from cones.methods.cones import Cones, Shut
from cones.record import write_json


class Fits:
    """What is learnt of the subjects of a plan.

    Args:
        pipeline: Text-to-image pipeline that knows the words of the plan.
        plan: What is compared.
        photos: The subjects, by name.
        work: Keeps what is learnt, and the prior pictures.
        notify: Called while a method learns.
    """

    def __init__(
        self,
        pipeline: Any,
        plan: Plan,
        photos: Mapping[str, Photos],
        work: Path,
        notify: Notify,
    ) -> None:
        """Learn nothing yet."""
        self.pipeline, self.plan, self.photos = pipeline, plan, photos
        self.work, self.notify = work, notify
        self.model, self.size = model_key(pipeline), backbone_for(pipeline).resolution

    def home(self, cell: Cell) -> Path:
        """Give the folder of a fit; its name holds all that the fit depends on."""
        key = {
            "model": self.model,
            "method": cell.method,
            "settings": asdict(self.method(cell.method)),
            "group": [(photos.name, photos.digest) for photos in cell.group],
            "words": cell.words,
            "seed": cell.seed,
            "prior": prior_shown(self.plan.prior),
        }
        return self.work / "fits" / f"{cell.label.replace(' ', '-')}-{digest(key)}"

    def of(self, cell: Cell) -> Customization | None:
        """Fit the method of a cell, or read what it learnt before; None is the untouched model."""
        if cell.method == UNTOUCHED:
            return None
        if cell.method in (RANDOM, STRANGER):
            return self._control(cell)
        home = self.home(cell)
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_suffix(".lock")):  # another process may be learning it
            if not self.told(cell):
                self._fit(cell, home)
        return LEARNT[cell.method].load(home / "learnt")

    def _fit(self, cell: Cell, home: Path) -> None:
        """Fit the method of a cell; what says that it is done is written last."""
        shutil.rmtree(home / "learnt", ignore_errors=True)
        method = self.method(cell.method)
        alone = self._alone(cell, method)
        more = {"parts": [self.of(part) for part in alone]} if alone else {}
        started = time.monotonic()
        learnt = method.fit(
            self.pipeline, self.tasks(cell), seed=cell.seed, on_progress=self.notify, **more
        )
        seconds = time.monotonic() - started
        seconds += sum(self.told(part)["seconds"] for part in alone)
        size = learnt.save(home / "learnt")
        density = {"density": learnt.density} if isinstance(learnt, Shut) else {}
        write_json(home / "fit.json", {"seconds": round(seconds, 1), "bytes": size, **density})

    def _alone(self, cell: Cell, method: Any) -> list[Cell]:
        """List the cells of single subjects whose results a method joins.

        They are those of the method that it names where that learns with the same settings, so
        that nothing is learnt twice; otherwise its own.
        """
        joins = getattr(method, "joins", None)
        if joins is None or len(cell.group) == 1:
            return []
        other = self.method(joins)
        shared = [each.name for each in fields(other)]
        same = all(getattr(other, name) == getattr(method, name) for name in shared)
        pairs = zip(cell.group, cell.words, strict=True)
        return [Cell(joins if same else cell.method, (p,), (w,), cell.seed) for p, w in pairs]

    def told(self, cell: Cell) -> dict[str, Any]:
        """Say what a fit took: ``seconds``, ``bytes``, of Cones ``density``; empty before it."""
        path = self.home(cell) / "fit.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    def tasks(self, cell: Cell) -> list[Task]:
        """Read the photos and draw the prior pictures, or find them in the cache."""
        settings = replace(self.plan.prior, seed=cell.seed, prior_prompts="noun")  # as rivals say
        cache = self.work / "prior"
        return [
            Task(
                replace(photos.subject(self.size), identifier=word),
                drawn_prior(self.pipeline, photos.noun, settings, cache, self.notify),
            )
            for photos, word in zip(cell.group, cell.words, strict=True)
        ]

    def method(self, name: str) -> Any:
        """Give the method with its settings; controls are those of Cones."""
        kind = METHODS.get(name, Cones)
        changes = self.plan.changes
        return kind(**changes.get(name, changes.get(_family(name), {})))

    def stranger(self, cell: Cell) -> Photos:
        """Choose the next subject."""
        names = list(self.photos)
        return self.photos[names[(names.index(cell.group[0].name) + 1) % len(names)]]

    def _control(self, cell: Cell) -> Shut:
        """Give Cones' own neurons at random places, or another subject's."""
        group = (self.stranger(cell),) if cell.method == STRANGER else cell.group
        found = self.of(Cell("cones", group, cell.words, cell.seed))
        if cell.method == STRANGER:
            return found
        draw = torch.Generator().manual_seed(cell.seed)
        return Shut(tuple(each.using(each.mask.random_like(draw)) for each in found.concepts))


def prior_shown(settings: Settings) -> dict[str, Any]:
    """Give the settings that prior pictures depend on."""
    return {name: each for name, each in asdict(settings).items() if name.startswith("prior_")}


def _family(name: str) -> str:
    """Give the method whose settings a control or a way of joining takes over."""
    return getattr(METHODS.get(name), "joins", None) or "cones"
