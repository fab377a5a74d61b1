"""Thirteen named colours, and patterns as functions from points to colours.

A named colour is a cluster in hue, saturation and value; the clusters do not touch, so a word
can be read off a picture. A paint maps points `(3, n)` to rgb `(n, 3)` between 0 and 1.
"""

import colorsys
import math
from collections.abc import Callable, Collection

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretraining.world.solids import Number, Points, Triple

Rgb = tuple[Number, Number, Number]
Colour = tuple[str, Rgb]
Paint = Callable[[Float[Tensor, "3 n"]], Float[Tensor, "n 3"]]
Region = Callable[[Float[Tensor, "3 n"]], Bool[Tensor, " n"]]

# Lowest and highest hue, saturation and value.
COLOURS: dict[str, tuple[float, ...]] = {
    "red": (-0.02, 0.01, 0.8, 0.95, 0.65, 0.9),
    "orange": (0.055, 0.085, 0.8, 0.95, 0.9, 1.0),
    "yellow": (0.13, 0.155, 0.75, 0.95, 0.9, 1.0),
    "green": (0.28, 0.4, 0.55, 0.85, 0.4, 0.7),
    "blue": (0.58, 0.65, 0.65, 0.9, 0.55, 0.95),
    "purple": (0.74, 0.8, 0.5, 0.75, 0.45, 0.75),
    "pink": (0.88, 0.95, 0.35, 0.55, 0.92, 1.0),
    "brown": (0.05, 0.08, 0.55, 0.75, 0.32, 0.5),
    "black": (0.0, 1.0, 0.0, 0.15, 0.05, 0.13),
    "white": (0.0, 1.0, 0.0, 0.04, 0.93, 1.0),
    "gray": (0.5, 0.7, 0.0, 0.08, 0.42, 0.6),
    "cream": (0.1, 0.125, 0.2, 0.32, 0.92, 1.0),
    "turquoise": (0.475, 0.52, 0.6, 0.9, 0.65, 0.9),
}
WORDS = tuple(COLOURS)
DARK: Rgb = (0.06, 0.05, 0.05)
WHITE: Rgb = (0.95, 0.95, 0.95)


def draw_colour(
    rng: np.random.Generator, words: Collection[str], avoid: Collection[str] = ()
) -> Colour:
    """Draw a word of `words` outside `avoid`, and a shade of it."""
    word = str(rng.choice([word for word in words if word not in avoid]))
    h0, h1, s0, s1, v0, v1 = COLOURS[word]
    hue = rng.uniform(h0, h1) % 1
    return word, colorsys.hsv_to_rgb(hue, rng.uniform(s0, s1), rng.uniform(v0, v1))


def flat(rgb: Rgb) -> Paint:
    """Return one colour everywhere."""
    row = torch.tensor(rgb, dtype=torch.float32)
    return lambda p: row.expand(p.shape[1], 3)


def where(region: Region, inside: Paint | Rgb, outside: Paint | Rgb) -> Paint:
    """Return one paint inside a region and another outside."""
    a = inside if callable(inside) else flat(inside)
    b = outside if callable(outside) else flat(outside)
    return lambda p: torch.where(region(p)[:, None], a(p), b(p))


def _turns(p: Points) -> Tensor:
    return torch.atan2(p[0], p[2]) / math.tau


def stripes(pitch: Number, phase: Number, duty: Number, axis: int = 1) -> Region:
    """Return level stripes, `pitch` from one to the next, `duty` of it filled."""
    return lambda p: (p[axis] / pitch + phase) % 1 < duty


def panels(count: int, phase: Number, duty: Number = 0.5) -> Region:
    """Return `count` panels around y."""
    return lambda p: (_turns(p) * count + phase) % 1 < duty


def dots(count: int, radius: Number, spacing: Number, phase: Number) -> Region:
    """Return rows of `count` round dots around y, rows `spacing` apart and staggered."""

    def region(p: Points) -> Tensor:
        level = p[1] / spacing
        row = level.floor()
        across = ((_turns(p) * count + phase + 0.5 * (row % 2)) % 1 - 0.5) * math.tau / count
        reach = (p[0].square() + p[2].square()).sqrt()
        up = (level - row - 0.5) * spacing
        return (across * reach).square() + up.square() < radius**2

    return region


def zigzag(count: int, height: Number, amplitude: Number, width: Number) -> Region:
    """Return a zigzag line of `count` teeth around y at `height`."""

    def region(p: Points) -> Tensor:
        wave = ((_turns(p) * count) % 1 - 0.5).abs() * 4 - 1
        return (p[1] - height - amplitude * wave).abs() < width

    return region


def patches(seed: int, reach: Triple, bottom: Number, radius: Number) -> Region:
    """Return seven round patches spread over a body that reaches `reach` from (0, bottom, 0)."""
    rng = np.random.default_rng(seed)
    angle = 2.4 * np.arange(7) + rng.uniform(0, math.tau)  # the golden angle keeps them apart
    height = bottom + reach[1] * (rng.permutation(7) + rng.uniform(0, 1, 7)) / 7
    spots = np.stack([reach[0] * np.sin(angle), height, reach[2] * np.cos(angle)])
    centres = torch.from_numpy(spots).float()

    def region(p: Points) -> Tensor:
        return (p[:, None] - centres[:, :, None]).square().sum(0).amin(0) < radius**2

    return region
