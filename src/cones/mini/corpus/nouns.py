"""What every drawing and every 3D model shows: the one part of the corpus made by hand.

``drawings.csv`` names the noun of an emoji by its slug without hyphens, over all sets;
``models.csv`` the noun, a finer name and the split of a 3D model. What neither lists is left out:
scenes, parts of houses, symbols, and things that several nouns would fit.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

SUBJECT, TRAIN = "subject", "train"


@dataclass(frozen=True)
class Shown:
    """What a 3D model shows; those of the split ``subject`` are never trained on."""

    noun: str
    name: str
    split: str


@cache
def drawings() -> dict[str, str]:
    """Give the noun of every known slug, hyphens left out."""
    return {row["slug"]: row["noun"] for row in _rows("drawings.csv")}


@cache
def models() -> dict[str, Shown]:
    """Give what every known 3D model shows, by its identity, ``Scopia#rattanSofa``."""
    return {
        row["model"]: Shown(row["noun"], row["name"], row["split"]) for row in _rows("models.csv")
    }


def collapsed(slug: str) -> str:
    """Write a slug as ``drawings.csv`` does: small letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", slug.lower())


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("cones.mini.corpus").joinpath(name).read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))
