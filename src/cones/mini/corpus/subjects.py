"""Personal photos of the subjects: five pictures of each, in other places and lights.

The subjects' models are in no training picture. Their photos are composed like training pictures,
at twice the side: on crops of panoramas where there are any, so that they look like photos.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cones.mini.arrange import paste
from cones.mini.corpus.nouns import SUBJECT
from cones.mini.corpus.parts import Parts
from cones.mini.sprites import Sprite
from cones.mini.world import Thing
from cones.record import appearing, write_json

PHOTOS = 5
SIDE = 128  # pixels
FRONT = 80.0  # degrees; views from further behind are kept for looking, not for photos


def write_subjects(sprites: Parts, backgrounds: Parts, out: Path, *, seed: int) -> list[str]:
    """Write ``subjects/<name>/00.jpg`` to ``04.jpg`` and ``subject.json``, and give the names.

    Args:
        sprites: Views of the subjects among others.
        backgrounds: Places.
        out: The corpus folder.
        seed: Of views, places and where the subject stands.
    """
    views: dict[str, list[dict[str, Any]]] = {}
    for row in sprites.rows():
        if row["split"] == SUBJECT:
            views.setdefault(row["model"], []).append(row)
    places = [row for row in backgrounds.rows() if row["kind"] == "hdr"] or backgrounds.rows()
    named = {folder_name(rows[0]): rows for _, rows in sorted(views.items())}
    for number, (name, rows) in enumerate(named.items()):
        rng = np.random.default_rng((seed, number))
        _write(out / "subjects" / name, rows, places, (sprites, backgrounds), rng)
    return list(named)


def folder_name(row: Mapping[str, Any]) -> str:
    """Make the name of a subject's folder from its model: ``siameseCat`` to ``siamese_cat``."""
    stem = row["model"].partition("#")[2]
    spaced = "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in stem)
    return spaced.strip("_")


def _write(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    places: Sequence[dict[str, Any]],
    parts: tuple[Parts, Parts],
    rng: np.random.Generator,
) -> None:
    front = [row for row in rows if abs(row["azimuth"]) <= FRONT] or list(rows)
    told = []
    for number in range(PHOTOS):
        row, place = (_pick(options, number, rng) for options in (front, places))
        picture, shown = _compose(parts, row, place, rng)
        with appearing(folder / f"{number:02d}.jpg") as unfinished:
            picture.save(unfinished, format="JPEG", quality=92)
        told.append(
            {"file": f"{number:02d}.jpg", "background": place["label"], "sprite": row["file"]}
            | {"box": list(shown)}
        )
    first = rows[0]
    kept = {key: first[key] for key in ("licence", "creator", "source", "model", "size_cm")}
    words = {"noun": first["class"], "description": first["name"]}
    files = {"photos": told, "sprites": [row["file"] for row in rows]}
    write_json(folder / "subject.json", words | kept | files)


def _pick(options: Sequence[Any], number: int, rng: np.random.Generator) -> Any:
    """Choose one, another for every number as long as there are enough."""
    start = number * len(options) // PHOTOS
    stop = max(start + 1, (number + 1) * len(options) // PHOTOS)
    return options[int(rng.integers(start, stop))]


def _compose(
    parts: tuple[Parts, Parts],
    row: dict[str, Any],
    place: dict[str, Any],
    rng: np.random.Generator,
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    sprites, backgrounds = parts
    canvas = backgrounds.picture(place["file"]).convert("RGB")
    canvas = canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    thing = Thing(row["class"], row["name"], row["colour"])
    image = sprites.picture(row["file"]).convert("RGBA")
    sprite = Sprite(image, thing, row["model"], drawn=False)
    low = max(0.72, place["ground_from"])
    foot = min(0.97, low + 0.1 + 0.14 * rng.random())
    spot = (0.55 + 0.25 * rng.random(), 0.42 + 0.16 * rng.random())
    covered = paste(canvas, sprite, spot, foot, rng)
    return canvas, covered.getbbox()
