"""Make the parts of a corpus, one picture at a time; what is there already is not made again."""

import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus.backgrounds import PLACES, crops, paintings
from cones.mini.corpus.catalogue import LIBRARIES, Model, catalogue
from cones.mini.corpus.drawings import sprites
from cones.mini.corpus.nouns import SUBJECT, models
from cones.mini.corpus.panoramas import read
from cones.mini.corpus.parts import Parts
from cones.mini.corpus.recolour import RECOLOURED, recoloured
from cones.mini.corpus.render import model_parts, render, solid_parts
from cones.mini.corpus.solids import Solid, solids
from cones.mini.corpus.views import view

WANTED = 90  # views of a noun, shared by its models: few models are seen from more sides
FEWEST, MOST, OF_A_SUBJECT = 3, 9, 16
OWN = "procedural"
Job = Callable[[], object]


@dataclass(frozen=True)
class Build:
    """A corpus in the making.

    Attributes:
        folders: Unpacked packages by name.
        sprites: Where cut-out pictures are kept.
        backgrounds: Where backgrounds are kept.
        seed: Of views, lights, colours and solids.
        nouns: Only these; none means all.
    """

    folders: Mapping[str, Path]
    sprites: Parts
    backgrounds: Parts
    seed: int
    nouns: frozenset[str] = frozenset()

    def stages(self) -> Iterator[tuple[str, list[Job]]]:
        """Give what is to be done, stage by stage, each a list of small jobs."""
        yield "backgrounds", [partial(self._keep, self.backgrounds, *p) for p in self._places()]
        yield "drawings", [partial(self._keep, self.sprites, *p) for p in self._drawings()]
        yield "models and solids", list(self._renders())

    @cached_property
    def panoramas(self) -> dict[str, np.ndarray]:
        """Read the panoramas, once."""
        found = read(self.folders["panoramas"])
        return {name: found[name] for name in PLACES if name in found}

    @cached_property
    def models(self) -> dict[str, Model]:
        """Read the models whose nouns are known and wanted, by identity."""
        folder = self.folders["furniture"] / "usr/share/sweethome3d/furniture"
        read_all = [model for name in LIBRARIES for model in catalogue(folder / f"{name}.sh3f")]
        return {
            model.identity: model
            for model in read_all
            if model.identity in models() and self._wanted(models()[model.identity].noun)
        }

    def _places(self) -> Iterator[tuple[dict[str, Any], Image.Image]]:
        yield from crops(self.panoramas, self.seed)
        yield from paintings(self.seed)

    def _drawings(self) -> Iterator[tuple[dict[str, Any], Image.Image]]:
        return ((row, image) for row, image in sprites(self.folders) if self._wanted(row["class"]))

    def _renders(self) -> Iterator[Job]:
        """List the views: of subjects many, of others the more the fewer models a noun has."""
        made = {name: s for name, s in solids(self.seed).items() if self._wanted(s.noun)}
        shown = {name: models()[name] for name in self.models}
        counts = Counter(each.noun for each in shown.values() if each.split != SUBJECT)
        counts += Counter(solid.noun for solid in made.values())
        for name, model in self.models.items():
            about = shown[name]
            subject = about.split == SUBJECT
            count = OF_A_SUBJECT if subject else views_of(counts[about.noun])
            told = {"class": about.noun, "name": about.name, "colour": None, "split": about.split}
            told |= {"source": model.source, "creator": model.creator, "licence": model.licence}
            told |= {"size_cm": list(model.size_cm), "drop_on_top_cm": model.drop_on_top_cm}
            yield partial(self._views, name, model, told, count)
        for name, solid in made.items():
            told = {"class": solid.noun, "name": solid.name, "colour": solid.colour}
            told |= {"split": "train", "source": OWN, "creator": "made for this corpus"}
            told |= {"licence": "CC0 1.0", "size_cm": list(solid.size_cm), "drop_on_top_cm": None}
            yield partial(self._views, name, solid, told, FEWEST)

    def _views(self, name: str, thing: Model | Solid, told: dict[str, Any], count: int) -> None:
        """Render the views of a model, and some in other colours."""
        stem = f"{told['split']}_{name.replace('#', '_').replace(' ', '_')}"
        missing = [k for k in range(count) if f"{stem}_{k:02d}.webp" not in self.sprites]
        if not missing:
            return
        try:
            parts, texture = model_parts(thing) if isinstance(thing, Model) else solid_parts(thing)
            for k in missing:
                seen = view(self.seed, name, k, list(self.panoramas))
                image = render(parts, texture, seen, self.panoramas[seen.light], seed=k)
                row = {**told, "file": f"{stem}_{k:02d}.webp", "style": "photo", "model": name}
                row |= {"azimuth": seen.azimuth, "elevation": seen.elevation, "light": seen.light}
                self._coat(row, image, k)
                self.sprites.add(row, image)
        except SubjectError as error:
            sys.stderr.write(f"left out {name}: {error}\n")

    def _coat(self, row: dict[str, Any], image: Image.Image, number: int) -> None:
        """Show a view once more in another colour, where the noun comes in several."""
        colours = RECOLOURED.get(row["class"], ())
        if row["split"] == SUBJECT or row["source"] == OWN or not colours:
            return
        colour = colours[(zlib.crc32(row["model"].encode()) + self.seed + number) % len(colours)]
        file = row["file"].replace(".webp", f"_{colour}.webp")
        changed = {**row, "file": file, "colour": colour, "recoloured": True}
        self.sprites.add(changed, recoloured(image, colour))

    def _wanted(self, noun: str) -> bool:
        return not self.nouns or noun in self.nouns

    @staticmethod
    def _keep(parts: Parts, row: dict[str, Any], image: Image.Image) -> None:
        if row["file"] not in parts:
            parts.add(row, image)


def views_of(count: int) -> int:
    """Give the views of each of ``count`` models of a noun."""
    return min(MOST, max(FEWEST, round(WANTED / count)))
