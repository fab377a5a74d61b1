"""Example photos of a subject: one individual alone, large, each time in another place.

A subject's folder holds `00.png` ..., `masks/`, `labels.json`, and the same again in `kept/`
(more views of it, for measuring), in `other/` (other individuals of its noun) and in `stranger/`
(one more individual, of other colours: the control of a search). Unlike training pictures these
may show a noun in any place.
"""

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretraining.world.captions import PLACES, prompt
from pretraining.world.looks import NOUNS, SUBJECTS, Look, draw_look, photograph, subject_look
from pretraining.world.production import packed, picture_row
from pretraining.world.scenes import BACKDROPS, Picture, Scene, develop, ground_of, stand_alone
from pretraining.world.stores import LookStore

PARTS = ("", "kept", "other", "stranger")
OTHERS = 1_000_000  # numbers of looks far beyond those training renders


def photo(look: Look, place: str, rng: np.random.Generator, *, size: int = 128) -> Picture:
    """Take one photo of a look in a place."""
    array, rows = packed([(0, look, photograph(look, rng))])
    store = LookStore([array], rows)
    backdrop, text = int(rng.integers(BACKDROPS)), prompt(look.noun, place)
    spot = stand_alone(rng, 0, rows[0], ground_of(place, backdrop, 0))
    mirrored = bool(rng.random() < 0.5)
    scene = Scene((spot,), place, backdrop, mirrored, None, None, text, held_out=False)
    return develop(scene, store, size=size)


def write_subject(folder: Path, key: str, views: int, *, seed: int = 0) -> None:
    """Write the four sets of a subject."""
    look, index = subject_look(key), list(SUBJECTS).index(key)
    noun = list(NOUNS).index(look.noun)
    others = [draw_look(OTHERS + 16 * k + noun) for k in range(views)]
    sets = ([look] * views, [look] * views, others, [stranger(key, views)] * views)
    for part, looks in enumerate(sets):
        rng = np.random.default_rng((seed, 5, index, part))
        places = [tuple(PLACES)[k] for k in rng.permutation(len(PLACES))]
        pictures = [photo(one, places[k % len(places)], rng) for k, one in enumerate(looks)]
        _write_set(folder / PARTS[part], key if part < 2 else None, pictures)


def stranger(key: str, first: int) -> Look:
    """Choose the first look of the noun after ``first`` of which neither colour is the same."""
    look = subject_look(key)
    noun, colours = list(NOUNS).index(look.noun), {look.main, look.second}
    drawn = (draw_look(OTHERS + 16 * k + noun) for k in count(first))
    return next(other for other in drawn if not colours & {other.main, other.second})


def _write_set(folder: Path, key: str | None, pictures: list[Picture]) -> None:
    """Write pictures, their masks and their labels."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for k, picture in enumerate(pictures):
        name = f"{k:02d}.png"
        even = picture.pixels & 254  # invisible, and a fifth smaller
        Image.fromarray(even).save(folder / name, optimize=True)
        mask = Image.fromarray(picture.things[0].mask)
        mask.save(folder / "masks" / name, optimize=True)
        row = picture_row(picture)
        thing = row.pop("things")[0]
        rows.append({"file": name, "place": row["place"], **thing})
    labels: dict[str, Any] = {"subject": key, "noun": rows[0]["noun"], "photos": rows}
    if key:
        labels["tuning"] = SUBJECTS[key].tuning
    (folder / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
