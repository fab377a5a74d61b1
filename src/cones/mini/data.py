"""Compose captioned training pictures from cut-out sprites and backgrounds.

Reads the corpus folder (``sprites.jsonl``, ``backgrounds.jsonl`` and their tar shards; the
format is described in its README) and draws scenes on the fly: one to three objects standing
on the ground of a background, each with a contact shadow. Only the split ``train`` is read, so
no subject's model is ever seen. A picture depends on its number and the seed alone.
"""

import io
import json
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from cones.errors import SubjectError
from cones.mini.world import NOUNS, PLACES, Scene, Thing, caption, held_out

SIZE = 64  # pixels
HELD_OUT = 2**40  # pictures from this number on are for measuring, never for training
PAINTED = 0.75  # share of painted backgrounds; the others are soft crops of panoramas
SMALL_PHOTO_SET = 5  # a noun with fewer photographed looks leans on its emoji


@dataclass(frozen=True)
class Sprite:
    """A cut-out picture (RGBA) and the words for it."""

    image: Image.Image
    thing: Thing
    model: str
    drawn: bool


@dataclass(frozen=True)
class Background:
    """A place (RGB, ``SIZE`` square) and where objects may stand, in shares of its height."""

    image: Image.Image
    label: str
    ground_from: float
    ground_to: float


def rows_of(folder: Path, name: str) -> list[dict]:
    """Read an index of the corpus, ``sprites.jsonl`` or ``backgrounds.jsonl``.

    Raises:
        SubjectError: There is none.
    """
    path = folder / name
    if not path.is_file():
        raise SubjectError(
            f"{path} is missing; expected a sprite corpus folder with sprites.jsonl and "
            "backgrounds.jsonl; pass its path with --corpus"
        )
    return [json.loads(line) for line in path.read_text().splitlines()]


def opened(folder: Path, rows: list[dict]) -> list[tuple[dict, Image.Image]]:
    """Read the picture of every row from its shard."""
    with ExitStack() as stack:
        names = {row["shard"] for row in rows}
        shards = {n: stack.enter_context(tarfile.open(folder / n)) for n in names}
        files = [shards[row["shard"]].extractfile(row["file"]).read() for row in rows]
    return [(row, Image.open(io.BytesIO(data))) for row, data in zip(rows, files, strict=True)]


class Corpus:
    """The sprites and backgrounds of the training split, decoded once.

    Args:
        folder: The corpus folder.

    Raises:
        SubjectError: The folder holds no corpus.
    """

    def __init__(self, folder: Path) -> None:
        """Read and decode everything the model may see."""
        rows = [
            r
            for r in rows_of(folder, "sprites.jsonl")
            if r["split"] == "train" and r["class"] in NOUNS
        ]
        self.sprites: dict[str, dict[bool, dict[str, list[Sprite]]]] = {}
        for row, image in opened(folder, rows):
            drawn = row["style"] != "photo"
            thing = Thing(row["class"], row["name"], row["colour"])
            by_model = self.sprites.setdefault(thing.noun, {}).setdefault(drawn, {})
            look = f"{row['model']}/{row['colour']}"
            by_model.setdefault(look, []).append(
                Sprite(image.convert("RGBA"), thing, row["model"], drawn)
            )
        self.backgrounds: dict[bool, dict[str, list[Background]]] = {True: {}, False: {}}
        places = [
            r
            for r in rows_of(folder, "backgrounds.jsonl")
            if r["split"] == "train" and r["label"] in PLACES
        ]
        for row, image in opened(folder, places):
            small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            by_label = self.backgrounds[row["kind"] != "hdr"]
            by_label.setdefault(row["label"], []).append(
                Background(small, row["label"], row["ground_from"], row["ground_to"])
            )

    def sprite(self, noun: str, drawn: bool, rng: np.random.Generator) -> Sprite:
        """Draw one sprite of ``noun``: first a look, then a view of it."""
        kinds = self.sprites[noun]
        looks = list((kinds.get(drawn) or next(iter(kinds.values()))).values())
        views = looks[rng.integers(len(looks))]
        return views[rng.integers(len(views))]

    def background(self, rng: np.random.Generator) -> Background:
        """Draw one background: first its kind, then a place, then a view of it."""
        kind = self.backgrounds[bool(rng.random() < PAINTED)]
        options = kind[list(kind)[rng.integers(len(kind))]]
        return options[rng.integers(len(options))]

    def picture(self, number: int, seed: int) -> tuple[np.ndarray, str]:
        """Compose picture ``number``: RGB ``(SIZE, SIZE, 3)`` of bytes, and its caption."""
        rng = np.random.default_rng((seed, number))
        count = int(rng.choice((1, 2, 3), p=(0.75, 0.2, 0.05)))
        nouns, background = self.together(count, rng)
        chosen = [self.sprite(n, self.drawn(n, rng), rng) for n in nouns]
        canvas = background.image.copy()
        if rng.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        relation = str(rng.choice(("next to", "to the left of", "and", "in front of")))
        things = [s.thing for s in chosen]
        if relation == "in front of" and count == 2:
            behind = min(0.9, background.ground_from + 0.08)
            paste(canvas, chosen[1], (0.35, 0.3 + 0.4 * rng.random()), behind, rng)
            paste(canvas, chosen[0], (0.45, 0.3 + 0.4 * rng.random()), 0.95, rng)
        else:
            self.stand(canvas, chosen, background, rng)
        scene = Scene(tuple(things), relation, background.label, all(s.drawn for s in chosen))
        return np.asarray(canvas), caption(scene, rng)

    def together(self, count: int, rng: np.random.Generator) -> tuple[list[str], Background]:
        """Draw nouns and a background until no two of them are a pair held out from training."""
        while True:
            nouns = [str(noun) for noun in rng.choice(list(NOUNS), count, replace=False)]
            background = self.background(rng)
            pairs = [*combinations(nouns, 2), *((noun, background.label) for noun in nouns)]
            if not any(held_out(*pair) for pair in pairs):
                return nouns, background

    def drawn(self, noun: str, rng: np.random.Generator) -> bool:
        """Decide between emoji and photo-like looks of a noun."""
        few = len(self.sprites[noun].get(False, {})) < SMALL_PHOTO_SET
        return bool(rng.random() < (0.6 if few else 0.12))

    @staticmethod
    def stand(
        canvas: Image.Image,
        chosen: list[Sprite],
        background: Background,
        rng: np.random.Generator,
    ) -> list[Image.Image]:
        """Stand the sprites side by side, left to right; give what each covers."""
        count, covered = len(chosen), []
        for place, sprite in enumerate(chosen):
            if count == 1:
                size, centre = 0.5 + 0.35 * rng.random(), 0.4 + 0.2 * rng.random()
            else:
                size = (0.9 + 0.2 * rng.random()) * (0.52 if count == 2 else 0.36)
                centre = (place + 0.5 + 0.16 * (rng.random() - 0.5)) / count
            low, high = max(0.72, background.ground_from), 0.96
            foot = low + (high - low) * rng.random() if size < 0.7 else 0.9 + 0.07 * rng.random()
            covered.append(paste(canvas, sprite, (size, centre), foot, rng))
        return covered


def paste(
    canvas: Image.Image,
    sprite: Sprite,
    spot: tuple[float, float],
    foot: float,
    rng: np.random.Generator,
) -> Image.Image:
    """Put a sprite on ``canvas``: long side and centre in shares of the width, lower edge at foot.

    A soft ellipse under the lower edge is the contact shadow.

    Returns:
        What the sprite covers, shadow left out: grey, as large as the canvas, white where it is
        opaque.
    """
    (size, centre), side = spot, canvas.width
    image = sprite.image
    scale = size * side / max(image.size)
    width, height = (max(2, round(long * scale)) for long in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not sprite.drawn:
        image = ImageEnhance.Brightness(image).enhance(0.8 + 0.35 * rng.random())
    left, bottom = round(centre * side - width / 2), round(foot * side)
    rows, columns = np.mgrid[0:side, 0:side]
    flat = max(1.5, 0.1 * width)
    distance = ((columns - left - width / 2) / (0.5 * width)) ** 2
    distance = distance + ((rows - bottom + 1) / flat) ** 2
    shade = (110 * np.clip(1.2 - distance, 0, 1)).astype(np.uint8)
    canvas.paste((20, 20, 20), (0, 0), Image.fromarray(shade))
    canvas.paste(image, (left, bottom - height), image)
    covered = Image.new("L", (side, side))
    covered.paste(image.getchannel("A"), (left, bottom - height))
    return covered


def pictures(corpus: Corpus, numbers: range, seed: int) -> tuple[np.ndarray, list[str]]:
    """Compose a batch: bytes ``(n, SIZE, SIZE, 3)`` and ``n`` captions."""
    pairs = [corpus.picture(number, seed) for number in numbers]
    return np.stack([image for image, _ in pairs]), [text for _, text in pairs]
