"""Pictures: things standing in a place, with a caption and exact labels.

A scene is first planned (labels and positions only, cheap), then painted from stored looks and
from a pool of forty backgrounds a place. Some pairs of a noun and a place, and of two nouns, never
appear in training; `held_out=True` plans only those. All draws come from (seed, number).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from pretraining.world import TABLES
from pretraining.world.captions import LIGHTS, PLACES, RELATIONS, Labels, caption
from pretraining.world.places import paint
from pretraining.world.stores import LookStore
from pretraining.world.toys import NOUNS as TOYS

BACKDROPS = 40
COUNTS = (0.72, 0.23, 0.05)  # of pictures with one, two and three things
NOUNS = tuple(TOYS)
REAL = {noun: toy["cm"] ** 0.5 for noun, toy in TOYS.items()}  # compressed sizes
ON = {noun: toy["carries"] for noun, toy in TOYS.items() if toy["carries"]}
MOONLIGHT = (0.86, 0.88, 0.98)
Layout = tuple[list[float], list[float], list[float]]  # middles, lower edges and long sides


@dataclass(frozen=True)
class Spot:
    """Where a thing stands.

    `look` is a row of the store; middle, lower edge and long side are fractions of the picture.
    """

    look: int
    x: float
    foot: float
    long: float
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """A planned picture: its spots in the order of the caption."""

    spots: tuple[Spot, ...]
    place: str
    backdrop: int
    mirrored: bool
    light: str | None
    relation: str | None
    caption: str
    held_out: bool


@dataclass(frozen=True)
class Thing(Labels):
    """A thing in a picture; box (x0, y0, x1, y1) and mask cover what is visible of it."""

    box: tuple[int, int, int, int]
    mask: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Picture(Scene):
    """A painted scene; things in the order of the caption."""

    pixels: UInt8[np.ndarray, "h w 3"]
    things: tuple[Thing, ...]


def held_out_place(noun: str, place: str) -> bool:
    """Whether training never shows this noun in this place: one place a noun."""
    return (3 * NOUNS.index(noun) + 7 * list(PLACES).index(place)) % 10 == 0


def held_out_pair(first: str, second: str) -> bool:
    """Whether training never shows these nouns together: 14 of 120 pairs, one or two a noun."""
    return first != second and (NOUNS.index(first) + NOUNS.index(second)) % 10 == 5


def plan(number: int, looks: LookStore, *, seed: int = 0, held_out: bool = False) -> Scene:
    """Plan a scene; with `held_out`, one that holds a combination training never shows."""
    rng = np.random.default_rng((seed, 3, number))
    count = int(rng.choice(3, p=COUNTS)) + 1
    often = list(TABLES["relations"].values())
    relation = (None, RELATIONS[rng.choice(len(often), p=often)], "and")[count - 1]
    nouns, place = _cast(rng, count, relation)
    while held_out != (
        any(held_out_place(noun, place) for noun in nouns)
        or any(held_out_pair(*pair) for pair in combinations(nouns, 2))
    ):
        nouns, place = _cast(rng, count, relation)
    named = count == 1 and rng.random() < 0.15 and nouns[0] in looks.named
    rows = [_one(rng, (looks.named if named else looks.unnamed)[noun]) for noun in nouns]
    backdrop = int(rng.integers(BACKDROPS))
    spots = _arrange(rng, relation, rows, looks, ground_of(place, backdrop, seed))
    light = _one(rng, list(LIGHTS)) if place != "night" and rng.random() < 0.1 else None
    labels = [looks.labels(row) for row in rows]
    text = caption(labels, rng, relation=relation or "and", place=place, light=light)
    mirrored = bool(rng.random() < 0.5)
    return Scene(spots, place, backdrop, mirrored, light, relation, text, held_out)


def _one(rng: np.random.Generator, options: Sequence[Any]) -> Any:  # noqa: ANN401
    return options[int(rng.integers(len(options)))]


def _cast(rng: np.random.Generator, count: int, relation: str | None) -> tuple[list[str], str]:
    """Draw different nouns (for "on", one that the other can carry) and a place."""
    if relation == "on":
        below = _one(rng, list(ON))
        nouns = [_one(rng, ON[below]), below]
    else:
        nouns = [NOUNS[k] for k in rng.permutation(len(NOUNS))[:count]]
    return nouns, _one(rng, list(PLACES))


def ground_of(place: str, backdrop: int, seed: int) -> float:
    """Return the highest a thing may stand; a tiny painting has the same ground as a large one."""
    return max(0.72, paint(place, backdrop, seed=seed, size=16).ground)


def stand_alone(rng: np.random.Generator, row: int, looks: LookStore, ground: float) -> Spot:
    """Stand one thing, large and near the middle."""
    width, height = _shape(looks, row)
    long = rng.uniform(0.55, 0.85)
    foot = rng.uniform(max(ground, long * height + 0.03), 0.96)
    x = 0.5 + rng.uniform(-1, 1) * min((0.96 - long * width) / 2, 0.14)
    return Spot(row, float(x), foot, long, bool(rng.random() < 0.5))


def _shape(looks: LookStore, row: int) -> Float[np.ndarray, "2"]:
    """Return width and height, the longer of them 1."""
    size = looks.rows[row]["size"]
    return np.array(size[::-1], float) / max(size)


def _arrange(
    rng: np.random.Generator,
    relation: str | None,
    rows: Sequence[int],
    looks: LookStore,
    ground: float,
) -> tuple[Spot, ...]:
    """Choose sizes and positions, in the order of the caption."""
    if len(rows) == 1:
        return (stand_alone(rng, rows[0], looks, ground),)
    flips = (rng.random(len(rows)) < 0.5).tolist()
    real = np.array([REAL[looks.rows[row]["noun"]] for row in rows])
    shapes = np.array([_shape(looks, row) for row in rows]) * (real / real.max())[:, None]
    if relation == "on":
        x, feet, long = _stacked(rng, shapes, looks.rows[rows[1]], ground)
    else:
        x, feet, long = _side_by_side(rng, relation, shapes, ground)
    return tuple(map(Spot, rows, x, feet, long, flips))


def _side_by_side(
    rng: np.random.Generator, relation: str | None, shapes: Float[np.ndarray, "n 2"], ground: float
) -> Layout:
    """Stand things on the ground, apart or one before the other."""
    (wide, high), count = shapes.T, len(shapes)
    order = list(rng.permutation(count))
    if relation in ("to the left of", "to the right of"):
        order = [0, 1] if relation == "to the left of" else [1, 0]
    gap = -0.35 * wide.min() if relation == "in front of" else 0.03
    span = wide.sum() + gap * (count - 1)
    scale = min(0.94 / span, 0.78 / high.max()) * rng.uniform(0.86, 1)
    feet = rng.uniform(max(ground, scale * high.max() + 0.03), 0.96, count).tolist()
    if relation == "in front of":
        feet = [0.96, max(ground, 0.82)]
    left = 0.5 - scale * span / 2 + rng.uniform(-1, 1) * max(0.0, 0.47 - scale * span / 2)
    x = [0.0] * count
    for k in order:
        x[k] = float(left + scale * wide[k] / 2)
        left += scale * (wide[k] + gap)
    return x, feet, [float(scale * long) for long in shapes.max(1)]


def _stacked(
    rng: np.random.Generator,
    shapes: Float[np.ndarray, "2 2"],
    below: Mapping[str, Any],
    ground: float,
) -> Layout:
    """Put the first thing on top of the second, in the middle of its upper face."""
    upper, lower = shapes
    upper = upper * min(1, 0.8 * lower[0] / upper[0])
    face = 0.04 * lower[1]
    if below["noun"] == "barrel":  # its lid is a disc seen from above
        face = 0.55 * 0.8 * lower[0] * np.sin(np.radians(below["pitch"]))
    high = upper[1] + lower[1] - face
    scale = min(0.9 / high, 0.9 / lower[0]) * rng.uniform(0.88, 1)
    foot = rng.uniform(max(ground, scale * high + 0.02), 0.96)
    x = float(0.5 + rng.uniform(-1, 1) * min(0.12, 0.48 - scale * lower[0] / 2))
    feet = [float(foot - scale * (lower[1] - face)), float(foot)]
    return [x, x], feet, [float(scale * shape.max()) for shape in (upper, lower)]


@cache
def _shade() -> Image.Image:
    """Return a soft round shadow."""
    y, x = (np.mgrid[0:32, 0:64] + 0.5) / np.array((32, 64))[:, None, None] * 2 - 1
    fall = np.clip(1 - np.hypot(x, y), 0, 1)
    return Image.fromarray((255 * fall**2 * (3 - 2 * fall)).astype(np.uint8))


def compose(
    number: int, looks: LookStore, *, seed: int = 0, size: int = 128, held_out: bool = False
) -> Picture:
    """Plan and paint picture `number`; the same arguments and looks give the same bits."""
    return develop(plan(number, looks, seed=seed, held_out=held_out), looks, seed=seed, size=size)


def develop(scene: Scene, looks: LookStore, *, seed: int = 0, size: int = 128) -> Picture:
    """Paint a planned scene, far things first, and read off what stays visible of each."""
    backdrop = paint(scene.place, scene.backdrop, seed=seed, size=size).pixels
    canvas = Image.fromarray(backdrop[:, ::-1] if scene.mirrored else backdrop)
    owner = Image.new("L", (size, size))
    spots = scene.spots
    stacked = scene.relation == "on"  # the upper one is painted last
    for k in sorted(range(len(spots)), key=lambda k: spots[k].foot, reverse=stacked):
        sprite, at = _placed(looks.rgba(spots[k].look), spots[k], size)
        if scene.place == "night":
            sprite = _toned(sprite, MOONLIGHT)
        _cast_shadow(canvas, sprite, at, 0.25 if stacked and k == 0 else 0.5)
        canvas.paste(sprite, at, sprite)
        owner.paste(k + 1, at, sprite.getchannel("A").point(lambda a: 255 * (a > 127)))
    if scene.light:
        canvas = _toned(canvas, TABLES["lights"][scene.light]["tone"])
    things = []
    for k, spot in enumerate(spots, 1):
        mask = np.asarray(owner) == k
        box = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
        things.append(Thing(**vars(looks.labels(spot.look)), box=box, mask=mask))
    return Picture(**vars(scene), pixels=np.asarray(canvas), things=tuple(things))


def _placed(
    rgba: UInt8[np.ndarray, "h w 4"], spot: Spot, size: int
) -> tuple[Image.Image, tuple[int, int]]:
    """Scale a look for its spot and say where its upper left corner goes."""
    image = Image.fromarray(np.ascontiguousarray(rgba))
    scale = spot.long * size / max(image.size)
    width, height = (max(2, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    if spot.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image, (round(spot.x * size - width / 2), round(spot.foot * size) - height)


def _cast_shadow(
    canvas: Image.Image, sprite: Image.Image, at: tuple[int, int], strength: float
) -> None:
    """Darken the ground below a sprite: firmly where it touches, faintly below all of it."""
    (x, y), (width, height) = at, sprite.size
    feet = sprite.getchannel("A").crop((0, height - max(1, height // 7), width, height))
    left, _, right, _ = feet.getbbox() or (0, 0, width, 0)
    for x0, x1, amount in ((left, right, strength + 0.2), (0, width, strength * 0.6)):
        grow = 0.16 * (x1 - x0) + 2
        across, deep = round(x1 - x0 + 2 * grow), max(4, round(0.36 * (x1 - x0)))
        shade = _shade().resize((across, deep), Image.Resampling.BILINEAR)
        shade = shade.point([round(level * min(1, amount)) for level in range(256)])
        corner = (round(x + x0 - grow), y + height - round(0.66 * deep))
        canvas.paste((10, 10, 20), corner, shade)


def _toned(image: Image.Image, tone: Sequence[float]) -> Image.Image:
    """Multiply the colours of an image; an alpha channel stays."""
    table = [min(255, round(level * factor)) for factor in tone for level in range(256)]
    return image.point(table + list(range(256)) * (len(image.getbands()) - 3))
