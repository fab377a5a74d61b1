"""The eighteen example subjects: their photos, what is known of them, and how prompts call them.

Six may be used to set choices (tuning), twelve only to measure. A subject has the same identifier
in every study, so that what was learnt of it alone can be joined with what was learnt of others.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones import Subject
from cones.errors import SubjectError
from cones.search.find import KEEP_FROM
from cones.subject import read_pixels, with_article

ROOT = Path(__file__).parent.parent / "examples" / "photos"
IDENTIFIERS = ("V*", "V2*", "V3*", "V4*")
# The places of the built-in model's world; a test compares them with the captions it learnt from.
PLACES = {
    "beach": "on a beach",
    "desert": "in a desert",
    "grass": "on the grass",
    "lake": "by a lake",
    "night": "at night",
    "plain": "on a plain background",
    "road": "on a road",
    "room": "in a room",
    "snow": "in the snow",
    "wooden floor": "on a wooden floor",
}
PATTERNS = {
    "stripes": "striped",
    "dots": "dotted",
    "zigzag": "zigzag",
    "band": "banded",
    "panels": "panelled",
    "patches": "patched",
    "tuxedo": "tuxedo",
}


@dataclass(frozen=True)
class Example:
    """One subject on disk.

    Its folder holds photos, and more of them in ``kept`` (new views), ``other`` (other individuals
    of its noun) and ``stranger`` (as many of one more, of other colours, for the control).
    """

    key: str  # the name of its folder
    folder: Path
    noun: str
    main: str  # colour
    second: str  # colour
    pattern: str
    tuning: bool  # choices may be set by it
    identifier: str
    looks: frozenset[tuple[str, str]] = frozenset()  # other colours that the examiner reads

    @property
    def phrase(self) -> str:
        """Call it by its identifier: ``a V* cat``."""
        return with_article(f"{self.identifier} {self.noun}")

    @property
    def plain(self) -> str:
        """Call it by its noun: ``a cat``."""
        return with_article(self.noun)

    @property
    def in_words(self) -> str:
        """Say all that words can say of it: ``a striped orange and black cat``."""
        colours = " and ".join(dict.fromkeys((self.main, self.second)))
        words = (PATTERNS.get(self.pattern), colours, self.noun)
        return with_article(" ".join(word for word in words if word))

    @cached_property
    def digest(self) -> str:
        """Name the content of all its photos."""
        found = hashlib.sha256()
        for file in sorted(self.folder.glob("**/*.png")):
            found.update(file.relative_to(self.folder).as_posix().encode() + file.read_bytes())
        return found.hexdigest()[:16]

    def subject(self, size: int, *, photos: int | None = None, masked: bool = False) -> Subject:
        """Read the photos that may be learnt from, the first ``photos`` of them if given."""
        pixels = read_pixels(self.folder, size=size)[:photos]
        masks = self.masks("", size)[:photos] if masked else None
        return Subject(pixels, self.noun, self.identifier, masks)

    def seen(self, size: int) -> Float[Tensor, "n 3 h w"]:
        """Read the photos that every method learns from: a search keeps the last one out."""
        pixels = read_pixels(self.folder, size=size)
        return pixels[:-1] if len(pixels) >= KEEP_FROM else pixels

    def part(self, name: str, size: int) -> Float[Tensor, "n 3 h w"]:
        """Read the photos of a part of its folder, which no search of it learns from."""
        return read_pixels(self.folder / name, size=size)

    def masks(self, part: str, size: int) -> Float[Tensor, "n 1 h w"]:
        """Read where it is on the photos of a part."""
        return read_pixels(self.folder / part / "masks", size=size)[:, :1].round()

    def photos(self) -> list[Image.Image]:
        """Read all its photos as pictures: those of the search and the new views."""
        files = [*sorted(self.folder.glob("*.png")), *sorted(self.folder.glob("kept/*.png"))]
        return [Image.open(file).convert("RGB") for file in files]


def load_examples(root: Path = ROOT) -> dict[str, Example]:
    """Find all subjects below ``root``, by key; identifiers take turns within each set.

    Raises:
        SubjectError: There is none.
    """
    found: dict[str, Example] = {}
    counts = {True: 0, False: 0}
    for file in sorted(root.glob("*/labels.json")):
        labels = json.loads(file.read_text("utf-8"))
        first, tuning = labels["photos"][0], bool(labels["tuning"])
        traits = {name: str(first[name]) for name in ("noun", "main", "second", "pattern")}
        word = IDENTIFIERS[counts[tuning] % len(IDENTIFIERS)]
        counts[tuning] += 1
        key = file.parent.name
        found[key] = Example(key, file.parent, **traits, tuning=tuning, identifier=word)
    if not found:
        raise SubjectError(
            f"found no subject in {str(root)!r}; expected folders with photos and a labels.json; "
            "run this in a checkout, which has them in examples/photos"
        )
    return found


def groups(keys: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Put subjects together in their order; each has an identifier of its own in its group."""
    whole = len(keys) - len(keys) % size
    return [tuple(keys[k : k + size]) for k in range(0, whole, size)]


def prompt(phrases: Sequence[str], place: str | None = None) -> str:
    """Ask for things in a place: ``a photo of a V* cat and a V2* jar in the snow``."""
    things = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
    return " ".join(["a photo of", things, *([PLACES[place]] if place else [])])
