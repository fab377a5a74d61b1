"""Compose captioned training pictures from cut-out sprites and backgrounds.

Draws scenes on the fly: one to four objects in a relation that the caption names, at a place and
sometimes in a light that it names too. Only the split ``train`` of a corpus is read, so no
subject's model is ever seen. A picture depends on its number and the seed alone.
"""

from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from cones.mini.arrange import CELL, holds, lit, stand, stand_before, stand_on
from cones.mini.sprites import SIZE, Background, Sprite, opened, rows_of
from cones.mini.world import (
    AND,
    BEHIND,
    FLAT_TOPS,
    IN_FRONT_OF,
    LEFT_OF,
    LIGHTS,
    NEXT_TO,
    NOUNS,
    ON,
    PLACES,
    RIGHT_OF,
    Scene,
    Thing,
    caption,
    held_out,
)

HELD_OUT = 2**40  # pictures from this number on are for measuring, never for training
PAINTED = 0.75  # share of painted backgrounds; the others are soft crops of panoramas
SMALL_PHOTO_SET = 5  # a noun with fewer photographed looks leans on its emoji
COUNTS = {1: 0.7, 2: 0.23, 3: 0.05, 4: 0.02}  # share of pictures with so many things
ON_RATE = 0.35  # of the pairs of which one can stand on the other
LOOSE_EVERY = 10  # one picture of ten does not keep to the autoencoder's cells, as photos do not
LIT = 0.1  # share of pictures in a light that the caption names
LOWEST_TOP = 0.3  # of a thing's height; what holds things lower down holds them inside


class Corpus:
    """The sprites and backgrounds of the training split, decoded once.

    Args:
        folder: The corpus folder.
        split: Of the sprites: ``train``, all that the model may see, or ``subject``, looks that
            it never saw. Backgrounds are those of ``train``.

    Raises:
        SubjectError: The folder holds no corpus.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        """Read and decode the sprites of a split, and the backgrounds."""
        rows = [
            r
            for r in rows_of(folder, "sprites.jsonl")
            if r["split"] == split and r["class"] in NOUNS
        ]
        usual = _usual_sizes(rows)
        self.sprites: dict[str, dict[bool, dict[str, list[Sprite]]]] = {}
        for row, image in opened(folder, rows):
            drawn = row["style"] != "photo"
            thing = Thing(row["class"], row["name"], row["colour"])
            by_model = self.sprites.setdefault(thing.noun, {}).setdefault(drawn, {})
            look = f"{row['model']}/{row['colour']}"
            size = max(row["size_cm"]) if row["size_cm"] else usual.get(thing.noun)
            sprite = Sprite(
                image.convert("RGBA"), thing, row["model"], drawn, size, _top(row, drawn)
            )
            by_model.setdefault(look, []).append(sprite)
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
        count = int(rng.choice(list(COUNTS), p=list(COUNTS.values())))
        nouns, background = self.together(count, rng)
        chosen = [self.sprite(n, self.drawn(n, rng), rng) for n in nouns]
        canvas = background.image.copy()
        if rng.random() < 0.5:
            canvas = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        relation = AND
        if count == 2:
            chosen, relation = related(chosen, rng)
        cell = CELL if number % LOOSE_EVERY else 1
        arrange(canvas, chosen, relation, background, rng, cell)
        light = None
        if rng.random() < LIT and background.label != "night":
            light = str(rng.choice(list(LIGHTS)))
            canvas = lit(canvas, LIGHTS[light])
        things, drawn = tuple(s.thing for s in chosen), all(s.drawn for s in chosen)
        scene = Scene(things, relation, background.label, drawn, light)
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


def _usual_sizes(rows: list[dict]) -> dict[str, float]:
    """Give the median longest side in centimetres of each noun, for drawings, which have none."""
    known: dict[str, list[float]] = {}
    for row in rows:
        if row["size_cm"]:
            known.setdefault(row["class"], []).append(max(row["size_cm"]))
    return {noun: median(sizes) for noun, sizes in known.items()}


def _top(row: dict, drawn: bool) -> float | None:
    """Give where other things can stand on this one, in shares of its height, or None."""
    if drawn:
        return None
    if row["drop_on_top_cm"] and row["size_cm"]:
        share = row["drop_on_top_cm"] / row["size_cm"][2]
        return share if LOWEST_TOP <= share <= 1 else None
    return FLAT_TOPS.get(row["class"])


def related(chosen: list[Sprite], rng: np.random.Generator) -> tuple[list[Sprite], str]:
    """Choose how two things stand; the first is the one that a caption names first."""
    for upper, lower in (chosen, chosen[::-1]):
        if holds(upper, lower) and rng.random() < ON_RATE:
            return [upper, lower], ON
    beside = (NEXT_TO, AND, LEFT_OF, RIGHT_OF, IN_FRONT_OF, BEHIND)
    return chosen, str(rng.choice(beside))


def arrange(
    canvas: Image.Image,
    chosen: list[Sprite],
    relation: str,
    background: Background,
    rng: np.random.Generator,
    cell: int = CELL,
) -> None:
    """Put things on ``canvas`` as a relation says; the first is the one named first."""
    first, second = chosen[0], chosen[-1]
    if relation == ON:
        stand_on(canvas, first, second, rng, cell)
    elif relation == IN_FRONT_OF:
        stand_before(canvas, first, second, background, rng, cell)
    elif relation == BEHIND:
        stand_before(canvas, second, first, background, rng, cell)
    else:
        left_to_right = chosen[::-1] if relation == RIGHT_OF else chosen
        stand(canvas, left_to_right, background, rng, cell)


def pictures(corpus: Corpus, numbers: range, seed: int) -> tuple[np.ndarray, list[str]]:
    """Compose a batch: bytes ``(n, SIZE, SIZE, 3)`` and ``n`` captions."""
    pairs = [corpus.picture(number, seed) for number in numbers]
    return np.stack([image for image, _ in pairs]), [text for _, text in pairs]
