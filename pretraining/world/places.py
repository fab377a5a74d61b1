"""Ten painted places.

`paint(place, number)` gives a background, where its horizon lies and from where things may stand.
All lengths are fractions of the picture, so any size works; every draw comes from (seed, place,
number). Numpy, scipy and Pillow only. Nothing here knows what will stand in the place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageColor
from scipy import ndimage

Grid = Float[np.ndarray, "h w"]
Canvas = Float[np.ndarray, "h w 3"]
Colour = tuple[int, ...]
Option = TypeVar("Option")
Number = int | float


def _skies(colours: str) -> tuple[tuple[Colour, ...], ...]:
    """Read pairs of colours: at the zenith, at the horizon."""
    pairs = [pair.split() for pair in colours.split(",")]
    return tuple(tuple(ImageColor.getrgb(f"#{colour}")[:3] for colour in pair) for pair in pairs)


DAY = _skies("5fa0e6 cde4f8, 78b4f0 e1eefa, 96aac3 dce2e8")
DAWN = _skies("5a78be fac896")
WINTER = _skies("96afd2 e1e8f2, 6ea0dc d7e6f5, afb4be e1e4e8")
DRY = _skies("64a5e6 ebe1c8, 82aad7 f0d7b4, c8825a fac882")


@dataclass(frozen=True)
class Place:
    """A background: its pixels, and as fractions of the height its horizon and nearest ground."""

    pixels: UInt8[np.ndarray, "h w 3"]
    horizon: float
    ground: float


class _Brush:
    """The strokes places are painted with; `y` and `x` are unit coordinates."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.y, self.x = (np.mgrid[0:size, 0:size] + 0.5) / size

    def between(self, low: Number, high: Number) -> float:
        return float(self.rng.uniform(low, high))

    def one(self, options: Sequence[Option]) -> Option:
        return options[int(self.rng.integers(len(options)))]

    def noise(self, octaves: int, *, wide: int = 1, shape: tuple[int, int] | None = None) -> Grid:
        """Fractal noise in 0..1; features `wide` times as wide as high."""
        rows, columns = shape or (self.size, self.size)
        total = np.zeros((rows, columns))
        for octave in range(octaves):
            cells = 4 * 2**octave
            grid = self.rng.random((cells, max(2, cells // wide)), dtype=np.float32)
            layer = Image.fromarray(grid).resize((columns, rows), Image.Resampling.BICUBIC)
            total += np.asarray(layer) / 1.7**octave
        return (total - np.min(total)) / np.ptp(total)

    def nearness(self, horizon: float) -> Grid:
        """0 at the horizon and above, 1 at the lower edge."""
        return np.clip((self.y - horizon) / (1 - horizon), 0, 1)

    def floor(self, horizon: float, octaves: int, scale: Number = 1) -> Grid:
        """Noise lying on the ground, seen in perspective."""
        flat = self.noise(octaves, shape=(256, 512))
        depth = 1 / (0.95 * self.nearness(horizon) + 0.05)
        across, along = (self.x - 0.5) * depth * 70 * scale + 256, depth * 60 * scale
        return ndimage.map_coordinates(flat, [along % 255, across % 511], order=1, mode="wrap")

    def sky(self, horizon: float, colours: tuple[Colour, ...], clouds: Number) -> Canvas:
        fall = np.clip(self.y / horizon, 0, 1)[..., None]
        canvas = np.array(colours[0]) * (1 - fall) + np.array(colours[1]) * fall
        cover = np.clip((self.noise(6, wide=3) - 0.5) * 3, 0, 1)[..., None] * clouds
        return canvas * (1 - cover) + np.array((250, 250, 252)) * cover

    def hills(self, canvas: Canvas, horizon: float, colour: Colour, height: float) -> Canvas:
        waves = [(k + 1, self.between(0.5, 1.5), self.between(0, 6)) for k in range(4)]
        across = self.x[0] * 2 * np.pi
        line = np.sum([np.sin(across * k * f + start) / k for k, f, start in waves], axis=0)
        top = horizon - height * (line - line.min()) / np.ptp(line) - 0.008
        body = np.array(colour) + 18 * (self.noise(6) - 0.5)[..., None]
        return _over(canvas, (self.y > top) & (self.y < horizon), body)


def _over(canvas: Canvas, where: Bool[np.ndarray, "h w"], paint: Canvas | Colour) -> Canvas:
    return np.where(where[..., None], np.asarray(paint, float), canvas)


def _tint(colour: Colour, *changes: Grid) -> Canvas:
    """A colour changed by grey levels."""
    return np.array(colour, float) + np.sum(changes, axis=0)[..., None]


def _land(
    b: _Brush,
    horizon: tuple[float, float],
    skies: tuple[tuple[Colour, ...], ...],
    clouds: float | tuple[float, float],
    shades: tuple[Colour, ...],
    height: tuple[float, float],
) -> tuple[float, Canvas]:
    """Draw a horizon in a range, with a sky and hills above it."""
    h = b.between(*horizon)
    sky = b.one(skies)
    canvas = b.sky(h, sky, b.between(*clouds) if isinstance(clouds, tuple) else clouds)
    return h, b.hills(canvas, h, b.one(shades), b.between(*height))


Painted = tuple[Canvas, float, float]


def _beach(b: _Brush, number: int) -> Painted:
    h = b.between(0.34, 0.48)
    shore = h + b.between(0.08, 0.16)
    canvas = b.sky(h, b.one(DAY), b.between(0, 0.7))
    sea = b.one(((40, 120, 180), (60, 150, 180), (30, 100, 160)))
    waves = 40 * (b.noise(6, wide=4) - 0.5) + 35 * b.nearness(h)
    canvas = _over(canvas, b.y >= h, _tint(sea, waves))
    edge = shore + 0.03 * np.sin(b.x * b.between(3, 9) + b.between(0, 6))
    sand = b.one(((226, 202, 150), (214, 186, 138), (236, 216, 172)))
    canvas = _over(canvas, b.y > edge, _tint(sand, 34 * (b.floor(h, 6) - 0.5)))
    foam = (b.y > edge - 0.018) & (b.y <= edge + 0.006)
    return _over(canvas, foam, (240, 244, 246)), h, shore + 0.11


def _lake(b: _Brush, number: int) -> Painted:
    shades = ((70, 100, 70), (90, 110, 120), (60, 85, 60))
    h, canvas = _land(b, (0.34, 0.48), (*DAY, *DAWN), (0.0, 0.6), shades, (0.07, 0.17))
    rows = np.clip((h - 0.7 * (b.y[:, 0] - h)) * b.size, 0, b.size - 1).astype(int)
    ripples = 30 * (b.noise(6, wide=6) - 0.5)[..., None]
    water = canvas[rows] * 0.6 + np.array((35, 80, 115)) * 0.4 + ripples
    canvas, bank = _over(canvas, b.y >= h, water), b.between(0.76, 0.84)
    edge = bank + 0.022 * np.sin(b.x * b.between(6, 10) + b.between(0, 6))
    soil = b.one(((90, 125, 60), (125, 115, 95), (100, 135, 70)))
    ground = _tint(soil, 45 * (b.floor(bank - 0.05, 7) - 0.5))
    return _over(canvas, b.y > edge, ground), h, bank + 0.07


def _grass(b: _Brush, number: int) -> Painted:
    shades = ((60, 100, 55), (50, 85, 45), (90, 120, 100))
    h, canvas = _land(b, (0.32, 0.5), DAY, (0.0, 0.7), shades, (0.04, 0.12))
    blades = 55 * (b.floor(h, 8) * 0.7 + (b.rng.random(b.y.shape) - 0.5) * 0.4 - 0.3) + 26 * (
        b.nearness(h) - 0.5
    )
    green = b.one(((86, 145, 52), (105, 160, 60), (70, 125, 48)))
    return _over(canvas, b.y >= h, _tint(green, blades)), h, h + 0.14


def _snow(b: _Brush, number: int) -> Painted:
    shades = ((150, 165, 185), (70, 90, 85), (190, 200, 215))
    h, canvas = _land(b, (0.34, 0.5), WINTER, 0.2, shades, (0.05, 0.2))
    drifts = 24 * (b.floor(h, 6) - 0.5) + 8 * b.nearness(h)
    return _over(canvas, b.y >= h, _tint((226, 233, 243), drifts)), h, h + 0.14


def _desert(b: _Brush, number: int) -> Painted:
    shades = ((205, 150, 95), (180, 120, 75), (220, 170, 110))
    h, canvas = _land(b, (0.34, 0.5), DRY, 0.1, shades, (0.05, 0.16))
    dunes, near = b.floor(h, 5, 0.6), b.nearness(h)
    ripples = 7 * np.sin(70 * (b.y - h) / (0.4 + near) + 6 * dunes)
    sand = b.one(((218, 165, 105), (205, 150, 95), (228, 184, 126)))
    return _over(canvas, b.y >= h, _tint(sand, 26 * (dunes - 0.5), ripples)), h, h + 0.13


def _road(b: _Brush, number: int) -> Painted:
    shades = ((60, 95, 55), (100, 110, 120), (85, 95, 70))
    h, canvas = _land(b, (0.34, 0.46), DAY, (0.0, 0.7), shades, (0.04, 0.11))
    rough, near = 45 * (b.floor(h, 8) - 0.5), b.nearness(h)
    verge = b.one(((95, 135, 65), (160, 140, 100), (110, 125, 80)))
    canvas = _over(canvas, b.y >= h, _tint(verge, rough))
    across = b.x - b.between(0.4, 0.6) - b.between(-0.1, 0.1) * near
    half, ground = 0.015 + b.between(0.55, 0.8) * near, b.y >= h
    grey = b.one((80, 95, 110))
    asphalt = _tint((grey, grey, grey + 4), rough / 2, 9 * (b.rng.random(b.y.shape) - 0.5))
    canvas = _over(canvas, ground & (np.abs(across) < half), asphalt)
    dashes = (6 / (near + 0.08)).astype(int) % 2 == 0
    middle = ground & dashes & (np.abs(across) < 0.025 * half + 0.002)
    edges = ground & (np.abs(np.abs(across) - 0.93 * half) < 0.018 * half + 0.0016)
    return _over(canvas, middle | edges, (230, 227, 215)), h, h + 0.17


def _boards(b: _Brush, number: int) -> Painted:
    h = b.between(0.4, 0.58)
    walls = ((214, 204, 190), (190, 205, 205), (225, 220, 214), (180, 192, 204), (170, 182, 160))
    fall = b.between(-0.2, 0.2) * (b.x - 0.5)
    canvas, near = np.array(b.one(walls)) * (1 + fall)[..., None], b.nearness(h)
    depth = 1 / (near * 0.9 + 0.1)
    across = (b.x - 0.5) * depth * 9 + b.between(50, 55)
    tone = b.rng.uniform(-0.15, 0.15, 400)[np.floor(across).astype(int) % 400]
    wood = b.one(((160, 110, 68), (190, 145, 98), (120, 78, 48), (205, 170, 125)))
    shade = (1 + tone + 0.18 * (b.noise(7) - 0.5)) * (0.85 + 0.2 * near)
    shade = np.where(across % 1 < 0.05 * depth, 0.72 * shade, shade)
    canvas = _over(canvas, b.y >= h, np.array(wood) * shade[..., None])
    skirting = (b.y >= h - 0.035) & (b.y < h)
    return _over(canvas, skirting, b.one(((240, 238, 234), (120, 90, 65)))), h, h + 0.11


def _room(b: _Brush, number: int) -> Painted:
    h = b.between(0.48, 0.64)
    walls = (
        *((120, 150, 180), (200, 120, 100), (220, 190, 110), (130, 160, 120)),
        *((225, 222, 218), (160, 130, 170), (90, 100, 115)),
    )
    glow = ((b.x - b.between(0.15, 0.85)) / 0.55) ** 2 + ((b.y - b.between(0, 0.4)) / 0.47) ** 2
    canvas = np.array(b.one(walls)) * (0.82 + 0.3 * np.exp(-glow))[..., None]
    if number % 3 == 0:
        stripes = (b.x - b.between(0, 0.1)) % b.one((0.1, 0.13, 0.17)) < b.one((0.02, 0.045))
        canvas = np.where(stripes[..., None], canvas * 1.07, canvas)
    canvas = _frame(b, canvas, h, window=number % 2 == 0)
    near = b.nearness(h)
    depth = 1 / (near * 0.9 + 0.1)
    base = b.one(((150, 140, 130), (110, 90, 80), (190, 180, 170), (90, 105, 120), (170, 80, 70)))
    if b.rng.random() < 0.5:
        tiles = (np.floor((b.x - 0.5) * depth * 5) + np.floor(depth * 4)) % 2
        ground = np.array(base) * (1 + 0.16 * (tiles - 0.5))[..., None]
    else:
        ground = _tint(base, 20 * (b.rng.random(b.y.shape) - 0.5), 14 * (b.noise(5) - 0.5))
    canvas = _over(canvas, b.y >= h, ground * (0.86 + 0.2 * near)[..., None])
    return _over(canvas, (b.y >= h - 0.025) & (b.y < h), (232, 230, 226)), h, h + 0.1


def _frame(b: _Brush, canvas: Canvas, floor: float, *, window: bool) -> Canvas:
    """Hang a window or a picture on the wall, to one side."""
    x = b.x - 0.5 - b.one((-1, 1)) * b.between(0.22, 0.36)
    y = b.y - floor * b.between(0.4, 0.5)
    wide, high = b.between(0.1, 0.15), floor * b.between(0.24, 0.32)
    outer = (np.abs(x) < wide) & (np.abs(y) < high)
    inner = (np.abs(x) < wide - 0.02) & (np.abs(y) < high - 0.02)
    if window:
        view = b.sky(floor, b.one(DAY), 0.5)
        bars = (np.abs(x) < 0.008) | (np.abs(y) < 0.008)
        return _over(_over(canvas, outer, (242, 240, 236)), inner & ~bars, view)
    art = np.array(b.one(((214, 170, 90), (90, 140, 150), (190, 200, 205))))
    art = art * (0.7 + 0.5 * b.noise(2))[..., None]
    return _over(_over(canvas, outer, b.one(((110, 76, 48), (60, 56, 54)))), inner, art)


def _night(b: _Brush, number: int) -> Painted:
    h = b.between(0.44, 0.62)
    high = b.one(((6, 8, 26), (10, 12, 34), (4, 6, 18)))
    canvas = b.sky(h, (high, b.one(((30, 36, 70), (44, 40, 80), (24, 44, 66)))), 0)
    bright = np.where(b.rng.random(b.y.shape) > 0.985, b.rng.uniform(0.35, 1, b.y.shape), 0)
    canvas = np.maximum(canvas, np.array((235, 235, 225)) * bright[..., None])
    if number % 2:
        moon = np.hypot(b.x - b.between(0.12, 0.88), b.y - b.between(0.1, 0.27))
        canvas = canvas + np.array((40, 40, 34)) * np.exp(-((moon / 0.16) ** 2))[..., None]
        canvas = _over(canvas, moon < b.between(0.03, 0.06), (240, 236, 214))
    canvas = b.hills(canvas, h, (10, 13, 24), b.between(0.06, 0.17))
    soil = b.one(((42, 54, 54), (50, 50, 62), (40, 52, 70)))
    ground = _tint(soil, 18 * (b.floor(h, 7) - 0.5), 8 * b.nearness(h))
    return _over(canvas, b.y >= h, ground), h, h + 0.11


def _plain(b: _Brush, number: int) -> Painted:
    papers = (
        *((235, 235, 235), (205, 210, 216), (240, 225, 205), (200, 220, 235)),
        *((235, 205, 205), (205, 230, 205), (120, 124, 130), (245, 240, 180)),
    )
    h = b.between(0.55, 0.72)
    vignette = 1 - 0.22 * (((b.x - 0.5) / 0.7) ** 2 + ((b.y - 0.47) / 0.78) ** 2)
    turn = 1 - 0.07 / (1 + np.exp(-(b.y - h) / 0.047))
    return np.array(b.one(papers)) * (vignette * turn)[..., None], h, h + 0.08


PAINTERS: dict[str, Callable[[_Brush, int], Painted]] = {
    "beach": _beach,
    "desert": _desert,
    "grass": _grass,
    "lake": _lake,
    "night": _night,
    "plain": _plain,
    "road": _road,
    "room": _room,
    "snow": _snow,
    "wooden floor": _boards,
}


def paint(place: str, number: int, *, seed: int = 0, size: int = 128) -> Place:
    """Paint variation `number` of a place, square, `size` pixels a side.

    Raises:
        KeyError: there is no such place; `PAINTERS` lists them.
    """
    rng = np.random.default_rng((seed, 4, list(PAINTERS).index(place), number))
    canvas, horizon, ground = PAINTERS[place](_Brush(rng, size), number)
    blur = rng.uniform(0.3, 0.8) * size / 128
    canvas = ndimage.gaussian_filter(np.clip(canvas, 0, 255), (blur, blur, 0))
    pixels = np.clip(canvas * rng.uniform(0.9, 1.06), 0, 255).astype(np.uint8)
    return Place(pixels, round(horizon, 3), round(min(0.92, ground), 3))
