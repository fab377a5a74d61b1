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

from pretraining.world.captions import LIGHTS, PLACES, RELATIONS, Labels, caption
from pretraining.world.places import Place, paint
from pretraining.world.stores import LookStore
from pretraining.world.toys import NOUNS as TOYS

BACKDROPS = 40
COUNTS = (0.72, 0.23, 0.05)  # of pictures with one, two and three things
OFTEN = (0.3, 0.2, 0.13, 0.13, 0.12, 0.12)  # each relation of two things
NOUNS = tuple(TOYS)
SIZES = {  # of the real things, in cm
    22: ("cup",),
    25: ("ball", "sunglasses"),
    30: ("teapot", "hat"),
    35: ("rabbit", "teddy bear"),
    40: ("cat", "jar"),
    45: ("dog", "flower"),
    50: ("lamp",),
    60: ("barrel", "car"),
    70: ("chair", "woman"),
}
REAL = {noun: size**0.5 for size, nouns in SIZES.items() for noun in nouns}  # compressed
ON = {
    "barrel": ("cat", "rabbit", "teddy bear", "teapot", "cup", "ball", "hat", "flower", "lamp"),
    "car": ("cat", "rabbit", "teddy bear", "hat", "ball"),
}
TONES = {"bright": (1.22, 1.22, 1.18), "dim": (0.55, 0.55, 0.6), "sunset": (1.15, 0.84, 0.6)}
MOONLIGHT = (0.86, 0.88, 0.98)


@dataclass(frozen=True)
class Spot:
    """Where a thing stands.

    `look` is a row of the store; middle, lower edge and long side are fractions of the picture;
    things are painted in the order of `rank`.
    """

    look: int
    x: float
    foot: float
    long: float
    rank: float
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
    return (3 * NOUNS.index(noun) + 7 * tuple(PLACES).index(place)) % 10 == 0


def held_out_pair(first: str, second: str) -> bool:
    """Whether training never shows these nouns together: 14 of 120 pairs, one or two a noun."""
    return first != second and (NOUNS.index(first) + NOUNS.index(second)) % 10 == 5


def plan(number: int, looks: LookStore, *, seed: int = 0, held_out: bool = False) -> Scene:
    """Plan a scene; with `held_out`, one that holds a combination training never shows."""
    rng = np.random.default_rng((seed, 3, number))
    count = int(rng.choice(3, p=COUNTS)) + 1
    relation = (None, RELATIONS[rng.choice(6, p=OFTEN)], "and")[count - 1]
    while True:
        nouns = _cast(rng, count, relation)
        place = tuple(PLACES)[rng.integers(len(PLACES))]
        unseen = any(held_out_place(noun, place) for noun in nouns)
        unseen = unseen or any(held_out_pair(*pair) for pair in combinations(nouns, 2))
        if unseen == held_out:
            break
    named = len(nouns) == 1 and rng.random() < 0.15 and nouns[0] in looks.named
    pools = [(looks.named if named else looks.unnamed)[noun] for noun in nouns]
    rows = [pool[rng.integers(len(pool))] for pool in pools]
    backdrop = int(rng.integers(BACKDROPS))
    ground = ground_of(place, backdrop, seed)
    spots = _arrange(rng, relation, rows, [looks.rows[row] for row in rows], ground)
    light = None
    if place != "night" and rng.random() < 0.1:
        light = tuple(LIGHTS)[rng.integers(len(LIGHTS))]
    labels = [looks.labels(row) for row in rows]
    text = caption(labels, rng, relation=relation or "and", place=place, light=light)
    mirrored = bool(rng.random() < 0.5)
    return Scene(spots, place, backdrop, mirrored, light, relation, text, held_out)


def _cast(rng: np.random.Generator, count: int, relation: str | None) -> list[str]:
    """Draw different nouns; for "on" a pair of which one can carry the other."""
    if relation == "on":
        below = tuple(ON)[rng.integers(len(ON))]
        return [ON[below][rng.integers(len(ON[below]))], below]
    return [NOUNS[k] for k in rng.permutation(len(NOUNS))[:count]]


def ground_of(place: str, backdrop: int, seed: int) -> float:
    """Return the highest a thing may stand; a tiny painting has the same ground as a large one."""
    return max(0.72, _backdrop(place, backdrop, seed, 16).ground)


def stand_alone(
    rng: np.random.Generator, row: int, look: Mapping[str, Any], ground: float
) -> Spot:
    """Stand one thing, large and near the middle."""
    width, height = np.array(look["size"][::-1], float) / max(look["size"])
    long = rng.uniform(0.55, 0.85)
    foot = rng.uniform(max(ground, long * height + 0.03), 0.96)
    x = 0.5 + rng.uniform(-1, 1) * min((0.96 - long * width) / 2, 0.14)
    return Spot(row, float(x), foot, long, foot, bool(rng.random() < 0.5))


def _arrange(
    rng: np.random.Generator,
    relation: str | None,
    rows: Sequence[int],
    looks: Sequence[Mapping[str, Any]],
    ground: float,
) -> tuple[Spot, ...]:
    """Choose sizes and positions, in the order of the caption."""
    if len(rows) == 1:
        return (stand_alone(rng, rows[0], looks[0], ground),)
    sides = np.array([look["size"][::-1] for look in looks], float)  # width, height
    shapes = sides / sides.max(axis=1, keepdims=True)
    flips = [bool(flip) for flip in rng.random(len(rows)) < 0.5]
    real = np.array([REAL[look["noun"]] for look in looks])
    shapes = shapes * (real / real.max())[:, None]
    if relation == "on":
        return _stacked(rng, rows, looks, shapes, ground, flips)
    order = rng.permutation(len(rows))
    if relation in ("to the left of", "to the right of"):
        order = np.array((0, 1) if relation == "to the left of" else (1, 0))
    gap = 0.03
    if relation == "in front of":
        gap = -0.35 * shapes[:, 0].min()
    span = shapes[:, 0].sum() + gap * (len(rows) - 1)
    scale = min(0.94 / span, 0.78 / shapes[:, 1].max()) * rng.uniform(0.86, 1)
    feet = rng.uniform(max(ground, scale * shapes[:, 1].max() + 0.03), 0.96, len(rows))
    if relation == "in front of":
        feet = np.array((0.96, max(ground, 0.82)))
    left = 0.5 - scale * span / 2 + rng.uniform(-1, 1) * max(0.0, 0.47 - scale * span / 2)
    spots: dict[int, Spot] = {}
    for k in order:
        x, long = left + scale * shapes[k, 0] / 2, scale * shapes[k].max()
        spots[int(k)] = Spot(rows[k], x, float(feet[k]), long, float(feet[k]), flips[k])
        left += scale * (shapes[k, 0] + gap)
    return tuple(spots[k] for k in range(len(rows)))


def _stacked(
    rng: np.random.Generator,
    rows: Sequence[int],
    looks: Sequence[Mapping[str, Any]],
    shapes: Float[np.ndarray, "2 2"],
    ground: float,
    flips: Sequence[bool],
) -> tuple[Spot, Spot]:
    """Put the first thing on top of the second, in the middle of its upper face."""
    upper, lower = shapes[0].copy(), shapes[1]
    upper *= min(1, 0.8 * lower[0] / upper[0])
    face = 0.04 * lower[1]
    if looks[1]["noun"] == "barrel":  # its lid is a disc seen from above
        face = 0.55 * 0.8 * lower[0] * np.sin(np.radians(looks[1]["pitch"]))
    high = upper[1] + lower[1] - face
    scale = min(0.9 / high, 0.9 / lower[0]) * rng.uniform(0.88, 1)
    foot = rng.uniform(max(ground, scale * high + 0.02), 0.96)
    x = 0.5 + rng.uniform(-1, 1) * min(0.12, 0.48 - scale * lower[0] / 2)
    on = foot - scale * (lower[1] - face)
    top = Spot(rows[0], x, float(on), float(scale * upper.max()), foot + 0.01, flips[0])
    return top, Spot(rows[1], x, float(foot), float(scale * lower.max()), foot, flips[1])


@cache
def _backdrop(place: str, number: int, seed: int, size: int) -> Place:
    """Return one background of the pool, painted once a process."""
    return paint(place, number, seed=seed, size=size)


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
    backdrop = _backdrop(scene.place, scene.backdrop, seed, size).pixels
    canvas = Image.fromarray(backdrop[:, ::-1] if scene.mirrored else backdrop)
    owner = np.full((size, size), -1, np.int8)
    spots = scene.spots
    for k in sorted(range(len(spots)), key=lambda k: spots[k].rank):
        sprite, x, y = _placed(looks.rgba(spots[k].look), spots[k], size)
        if scene.place == "night":
            sprite = _toned(sprite, MOONLIGHT)
        shadow = 0.5 if spots[k].rank == spots[k].foot else 0.25
        _cast_shadow(canvas, sprite, x, y, shadow)
        canvas.paste(sprite, (x, y), sprite)
        alpha = Image.new("L", (size, size))
        alpha.paste(sprite.getchannel("A"), (x, y))
        owner[np.asarray(alpha) > 127] = k
    if scene.light:
        canvas = _toned(canvas, TONES[scene.light])
    things = tuple(
        Thing(**vars(looks.labels(spot.look)), box=_box(owner == k), mask=owner == k)
        for k, spot in enumerate(spots)
    )
    return Picture(**vars(scene), pixels=np.asarray(canvas), things=things)


def _placed(
    rgba: UInt8[np.ndarray, "h w 4"], spot: Spot, size: int
) -> tuple[Image.Image, int, int]:
    """Scale a look for its spot and say where its upper left corner goes."""
    image = Image.fromarray(np.ascontiguousarray(rgba))
    scale = spot.long * size / max(image.size)
    width, height = (max(2, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    if spot.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image, round(spot.x * size - width / 2), round(spot.foot * size) - height


def _cast_shadow(
    canvas: Image.Image, sprite: Image.Image, x: int, y: int, strength: float
) -> None:
    """Darken the ground below a sprite: firmly where it touches, faintly below all of it."""
    width, height = sprite.size
    foot = np.flatnonzero(np.asarray(sprite.getchannel("A"))[-max(1, height // 7) :].any(axis=0))
    left, right = (int(foot[0]), int(foot[-1]) + 1) if len(foot) else (0, width)
    for x0, x1, amount in ((left, right, strength + 0.2), (0, width, strength * 0.6)):
        grow = 0.16 * (x1 - x0) + 2
        across, deep = round(x1 - x0 + 2 * grow), max(4, round(0.36 * (x1 - x0)))
        shade = _shade().resize((across, deep), Image.Resampling.BILINEAR)
        shade = shade.point([round(level * min(1, amount)) for level in range(256)])
        at = (round(x + x0 - grow), y + height - round(0.66 * deep))
        canvas.paste((10, 10, 20), (*at, at[0] + across, at[1] + deep), shade)


def _toned(image: Image.Image, tone: tuple[float, float, float]) -> Image.Image:
    """Multiply the colours of an image; an alpha channel stays."""
    table = [min(255, round(level * factor)) for factor in tone for level in range(256)]
    return image.point(table + list(range(256)) * (len(image.getbands()) - 3))


def _box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Bound a mask; an empty one has the box (0, 0, 0, 0)."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return (0, 0, 0, 0)
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
