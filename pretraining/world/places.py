"""Ten painted places.

`paint(place, number)` gives a background and from where things may stand in it. A place is a
recipe of strokes, far ones first. All lengths are fractions of the picture, so any size works;
every draw comes from (seed, place, number). Nothing here knows what will stand in the place.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageColor
from scipy import ndimage

from pretraining.world import TABLES

Grid = Float[np.ndarray, "h w"]
Canvas = Float[np.ndarray, "h w 3"]
Colour = Int[np.ndarray, "3"] | tuple[int, int, int]
Option = TypeVar("Option")


def _rgb(codes: str) -> Int[np.ndarray, "n 3"]:
    return np.array([ImageColor.getrgb(f"#{code}") for code in codes.split()])


def _skies(codes: str) -> Int[np.ndarray, "n 2 3"]:
    """Read pairs of colours: at the zenith, at the horizon."""
    return _rgb(codes).reshape(-1, 2, 3)


DAY = _skies("5fa0e6 cde4f8  78b4f0 e1eefa  96aac3 dce2e8")
DAY_OR_DAWN = _skies("5fa0e6 cde4f8  78b4f0 e1eefa  96aac3 dce2e8  5a78be fac896")
WINTER = _skies("96afd2 e1e8f2  6ea0dc d7e6f5  afb4be e1e4e8")
DRY = _skies("64a5e6 ebe1c8  82aad7 f0d7b4  c8825a fac882")


class Place(NamedTuple):
    """A background, and the height things may stand from, as a fraction of the picture's."""

    pixels: UInt8[np.ndarray, "h w 3"]
    ground: float


class _Brush:
    """A canvas and the strokes for it; `y` and `x` are unit coordinates, `h` is the horizon."""

    def __init__(self, rng: np.random.Generator, number: int, size: int, h: float) -> None:
        self.rng, self.number, self.size, self.h = rng, number, size, h
        self.y, self.x = (np.mgrid[0:size, 0:size] + 0.5) / size
        self.canvas: Canvas = np.zeros((size, size, 3))
        self.ground = self.y >= h
        self.near = self.nearness(h)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def one(self, options: Sequence[Option] | np.ndarray) -> Option:
        return options[int(self.rng.integers(len(options)))]

    def hue(self, codes: str) -> Colour:
        return self.one(_rgb(codes))

    def grain(self) -> Grid:
        return self.rng.random(self.y.shape) - 0.5

    def noise(self, octaves: int, wide: int = 1, shape: tuple[int, int] | None = None) -> Grid:
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

    def floor(self, octaves: int, scale: float = 1, horizon: float | None = None) -> Grid:
        """Noise in 0..1 lying on the ground, seen in perspective."""
        flat = self.noise(octaves, shape=(256, 512))
        depth = 1 / (0.95 * self.nearness(horizon or self.h) + 0.05)
        across, along = (self.x - 0.5) * depth * 70 * scale + 256, depth * 60 * scale
        return ndimage.map_coordinates(flat, [along % 255, across % 511], order=1, mode="wrap")

    def fill(self, where: Bool[np.ndarray, "h w"], paint: Canvas | Colour, *light: Grid) -> None:
        """Paint where told, brighter by `light`."""
        painted = np.asarray(paint, float) + np.asarray(sum(light))[..., None]
        self.canvas = np.where(where[..., None], painted, self.canvas)

    def sky(self, high: Colour, low: Colour, clouds: float) -> Canvas:
        fall = np.clip(self.y / self.h, 0, 1)[..., None]
        canvas = np.array(high) * (1 - fall) + np.array(low) * fall
        cover = np.clip((self.noise(6, wide=3) - 0.5) * 3, 0, 1)[..., None] * clouds
        return canvas * (1 - cover) + np.array((250, 250, 252)) * cover

    def hills(self, colour: Colour, height: float) -> None:
        waves = [(k + 1, self.between(0.5, 1.5), self.between(0, 6)) for k in range(4)]
        across = self.x[0] * 2 * np.pi
        line = np.sum([np.sin(across * k * f + start) / k for k, f, start in waves], axis=0)
        top = self.h - height * (line - line.min()) / np.ptp(line) - 0.008
        self.fill((self.y > top) & (self.y < self.h), colour, 18 * (self.noise(6) - 0.5))


def _beach(b: _Brush) -> float:
    shore = b.h + b.between(0.08, 0.16)
    b.canvas = b.sky(*b.one(DAY), b.between(0, 0.7))
    sea = b.hue("2878b4 3c96b4 1e64a0")
    b.fill(b.ground, sea, 40 * (b.noise(6, wide=4) - 0.5), 35 * b.near)
    edge = shore + 0.03 * np.sin(b.x * b.between(3, 9) + b.between(0, 6))
    b.fill(b.y > edge, b.hue("e2ca96 d6ba8a ecd8ac"), 34 * (b.floor(6) - 0.5))
    b.fill((b.y > edge - 0.018) & (b.y <= edge + 0.006), (240, 244, 246))
    return shore + 0.11


def _lake(b: _Brush) -> float:
    b.canvas = b.sky(*b.one(DAY_OR_DAWN), b.between(0, 0.6))
    b.hills(b.hue("466446 5a6e78 3c553c"), b.between(0.07, 0.17))
    rows = np.clip((b.h - 0.7 * (b.y[:, 0] - b.h)) * b.size, 0, b.size - 1).astype(int)
    water = b.canvas[rows] * 0.6 + np.array((35, 80, 115)) * 0.4
    b.fill(b.ground, water, 30 * (b.noise(6, wide=6) - 0.5))
    bank = b.between(0.76, 0.84)
    edge = bank + 0.022 * np.sin(b.x * b.between(6, 10) + b.between(0, 6))
    soil = b.hue("5a7d3c 7d735f 648746")
    b.fill(b.y > edge, soil, 45 * (b.floor(7, horizon=bank - 0.05) - 0.5))
    return bank + 0.07


def _grass(b: _Brush) -> float:
    b.canvas = b.sky(*b.one(DAY), b.between(0, 0.7))
    b.hills(b.hue("3c6437 32552d 5a7864"), b.between(0.04, 0.12))
    blades = 55 * (b.floor(8) * 0.7 + b.grain() * 0.4 - 0.3), 26 * (b.near - 0.5)
    b.fill(b.ground, b.hue("569134 69a03c 467d30"), *blades)
    return b.h + 0.14


def _snow(b: _Brush) -> float:
    b.canvas = b.sky(*b.one(WINTER), 0.2)
    b.hills(b.hue("96a5b9 465a55 bec8d7"), b.between(0.05, 0.2))
    b.fill(b.ground, (226, 233, 243), 24 * (b.floor(6) - 0.5) + 8 * b.near)
    return b.h + 0.14


def _desert(b: _Brush) -> float:
    b.canvas = b.sky(*b.one(DRY), 0.1)
    b.hills(b.hue("cd965f b4784b dcaa6e"), b.between(0.05, 0.16))
    dunes = b.floor(5, 0.6)
    ripples = 7 * np.sin(70 * (b.y - b.h) / (0.4 + b.near) + 6 * dunes)
    b.fill(b.ground, b.hue("daa569 cd965f e4b87e"), 26 * (dunes - 0.5), ripples)
    return b.h + 0.13


def _road(b: _Brush) -> float:
    b.canvas = b.sky(*b.one(DAY), b.between(0, 0.7))
    b.hills(b.hue("3c5f37 646e78 555f46"), b.between(0.04, 0.11))
    rough = 45 * (b.floor(8) - 0.5)
    b.fill(b.ground, b.hue("5f8741 a08c64 6e7d50"), rough)
    across = np.abs(b.x - b.between(0.4, 0.6) - b.between(-0.1, 0.1) * b.near)
    half = 0.015 + b.between(0.55, 0.8) * b.near
    asphalt = b.hue("505054 5f5f63 6e6e72")
    b.fill(b.ground & (across < half), asphalt, rough / 2, 9 * b.grain())
    dashes = (6 / (b.near + 0.08)).astype(int) % 2 == 0
    lines = (dashes & (across < 0.025 * half + 0.002)) | (
        np.abs(across - 0.93 * half) < 0.018 * half + 0.0016
    )
    b.fill(b.ground & lines, (230, 227, 215))
    return b.h + 0.17


def _boards(b: _Brush) -> float:
    fall = b.between(-0.2, 0.2) * (b.x - 0.5)
    b.canvas = b.hue("d6ccbe becdcd e1dcd6 b4c0cc aab6a0") * (1 + fall)[..., None]
    depth = 1 / (b.near * 0.9 + 0.1)
    across = (b.x - 0.5) * depth * 9 + b.between(50, 55)
    tone = b.rng.uniform(-0.15, 0.15, 400)[np.floor(across).astype(int) % 400]
    wood = b.hue("a06e44 be9162 784e30 cdaa7d")
    shade = (1 + tone + 0.18 * (b.noise(7) - 0.5)) * (0.85 + 0.2 * b.near)
    shade *= np.where(across % 1 < 0.05 * depth, 0.72, 1)
    b.fill(b.ground, wood * shade[..., None])
    b.fill((b.y >= b.h - 0.035) & (b.y < b.h), b.hue("f0eeea 785a41"))
    return b.h + 0.11


def _room(b: _Brush) -> float:
    glow = ((b.x - b.between(0.15, 0.85)) / 0.55) ** 2 + ((b.y - b.between(0, 0.4)) / 0.47) ** 2
    wall = b.hue("7896b4 c87864 dcbe6e 82a078 e1deda a082aa 5a6473")
    b.canvas = wall * (0.82 + 0.3 * np.exp(-glow))[..., None]
    if b.number % 3 == 0:
        stripes = (b.x - b.between(0, 0.1)) % b.one((0.1, 0.13, 0.17)) < b.one((0.02, 0.045))
        b.canvas *= np.where(stripes, 1.07, 1)[..., None]
    _frame(b)
    depth = 1 / (b.near * 0.9 + 0.1)
    base = b.hue("968c82 6e5a50 beb4aa 5a6978 aa5046")
    if b.rng.random() < 0.5:
        tiles = (np.floor((b.x - 0.5) * depth * 5) + np.floor(depth * 4)) % 2
        floor = base * (1 + 0.16 * (tiles - 0.5))[..., None]
    else:
        floor = base + (20 * b.grain() + 14 * (b.noise(5) - 0.5))[..., None]
    b.fill(b.ground, floor * (0.86 + 0.2 * b.near)[..., None])
    b.fill((b.y >= b.h - 0.025) & (b.y < b.h), (232, 230, 226))
    return b.h + 0.1


def _frame(b: _Brush) -> None:
    """Hang a window or a picture on the wall, to one side."""
    x = np.abs(b.x - 0.5 - b.one((-1, 1)) * b.between(0.22, 0.36))
    y = np.abs(b.y - b.h * b.between(0.4, 0.5))
    wide, high = b.between(0.1, 0.15), b.h * b.between(0.24, 0.32)
    inner = (x < wide - 0.02) & (y < high - 0.02)
    if b.number % 2 == 0:
        inner &= (x >= 0.008) & (y >= 0.008)  # bars
        inside, frame = b.sky(*b.one(DAY), 0.5), (242, 240, 236)
    else:
        inside = b.hue("d6aa5a 5a8c96 bec8cd") * (0.7 + 0.5 * b.noise(2))[..., None]
        frame = b.hue("6e4c30 3c3836")
    b.fill((x < wide) & (y < high), frame)
    b.fill(inner, inside)


def _night(b: _Brush) -> float:
    b.canvas = b.sky(b.hue("06081a 0a0c22 040612"), b.hue("1e2446 2c2850 182c42"), 0)
    stars = (b.rng.random(b.y.shape) > 0.985) * b.rng.uniform(0.35, 1, b.y.shape)
    b.canvas = np.maximum(b.canvas, np.array((235, 235, 225)) * stars[..., None])
    if b.number % 2:
        moon = np.hypot(b.x - b.between(0.12, 0.88), b.y - b.between(0.1, 0.27))
        b.canvas += np.array((40, 40, 34)) * np.exp(-((moon / 0.16) ** 2))[..., None]
        b.fill(moon < b.between(0.03, 0.06), (240, 236, 214))
    b.hills((10, 13, 24), b.between(0.06, 0.17))
    b.fill(b.ground, b.hue("2a3636 32323e 283446"), 18 * (b.floor(7) - 0.5), 8 * b.near)
    return b.h + 0.11


def _plain(b: _Brush) -> float:
    vignette = 1 - 0.22 * (((b.x - 0.5) / 0.7) ** 2 + ((b.y - 0.47) / 0.78) ** 2)
    turn = 1 - 0.07 / (1 + np.exp(-(b.y - b.h) / 0.047))
    paper = b.hue("ebebeb cdd2d8 f0e1cd c8dceb ebcdcd cde6cd 787c82 f5f0b4")
    b.canvas = paper * (vignette * turn)[..., None]
    return b.h + 0.08


_PAINT = (_beach, _desert, _grass, _lake, _night, _plain, _road, _room, _snow, _boards)
PAINTERS = dict(zip(TABLES["places"], _PAINT, strict=True))


@cache
def paint(place: str, number: int, *, seed: int = 0, size: int = 128) -> Place:
    """Paint variation `number` of a place, square, `size` pixels a side; once a process.

    Raises:
        KeyError: there is no such place; `PAINTERS` lists them.
    """
    rng = np.random.default_rng((seed, 4, list(PAINTERS).index(place), number))
    brush = _Brush(rng, number, size, float(rng.uniform(*TABLES["places"][place]["horizon"])))
    ground = PAINTERS[place](brush)
    blur = rng.uniform(0.3, 0.8) * size / 128
    canvas = ndimage.gaussian_filter(np.clip(brush.canvas, 0, 255), (blur, blur, 0))
    pixels = np.clip(canvas * rng.uniform(0.9, 1.06), 0, 255).astype(np.uint8)
    return Place(pixels, round(min(0.92, ground), 3))
