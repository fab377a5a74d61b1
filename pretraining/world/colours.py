"""Thirteen named colours, and patterns as functions from points to colours.

A named colour is a cluster in hue, saturation and value; the clusters do not touch, so a word
can be read off a picture. A paint maps points `(3, n)` to rgb `(n, 3)` between 0 and 1; a colour
alone is a paint too.
"""

import colorsys
import math
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pretraining.world import TABLES
from pretraining.world.solids import Points, Triple, length

Traits = SimpleNamespace  # a toy's parameters and pose by name, its colours as rgb
Colour = tuple[str, Triple]
Paint = Triple | Callable[[Float[Tensor, "3 n"]], Float[Tensor, "n 3"]]
Region = Callable[[Float[Tensor, "3 n"]], Bool[Tensor, " n"]]

COLOURS: dict[str, list[list[float]]] = TABLES["colours"]
PALETTES: dict[str, list[str]] = {"all": list(COLOURS)} | TABLES["palettes"]
DARK: Triple = (0.06, 0.05, 0.05)
WHITE: Triple = (0.95, 0.95, 0.95)


def draw_colour(
    rng: np.random.Generator, words: str | Collection[str], avoid: Collection[str] = ()
) -> Colour:
    """Draw a word outside `avoid`, and a shade of it; `words` may be a palette, or one colour."""
    words = PALETTES.get(words, [words]) if isinstance(words, str) else words
    word = str(rng.choice([word for word in words if word not in avoid]))
    hue, saturation, value = (rng.uniform(*bounds) for bounds in COLOURS[word])
    return word, colorsys.hsv_to_rgb(hue % 1, saturation, value)


def painted(paint: Paint, p: Points) -> Float[Tensor, "n 3"]:
    """Return the colours of points."""
    return (
        paint(p) if callable(paint) else torch.tensor(paint, dtype=p.dtype).expand(p.shape[1], 3)
    )


def where(region: Region, inside: Paint, outside: Paint) -> Paint:
    """Return one paint inside a region and another outside."""
    return lambda p: torch.where(region(p)[:, None], painted(inside, p), painted(outside, p))


def marked(t: Traits, pattern: str, region: Region, paint: Paint) -> Paint:
    """Return a paint with the second colour in a region, if that is the toy's pattern."""
    return where(region, t.second, paint) if t.pattern == pattern else paint


def _turns(p: Points) -> Tensor:
    return torch.atan2(p[0], p[2]) / math.tau


def stripes(pitch: float, phase: float, duty: float) -> Region:
    """Return level stripes, `pitch` from one to the next, `duty` of it filled."""
    return lambda p: (p[1] / pitch + phase) % 1 < duty


def panels(count: int, phase: float, duty: float = 0.5) -> Region:
    """Return `count` panels around y."""
    return lambda p: (_turns(p) * count + phase) % 1 < duty


def dots(count: int, radius: float, spacing: float, phase: float) -> Region:
    """Return rows of `count` round dots around y, rows `spacing` apart and staggered."""

    def region(p: Points) -> Tensor:
        level = p[1] / spacing
        row = level.floor()
        across = ((_turns(p) * count + phase + 0.5 * (row % 2)) % 1 - 0.5) * math.tau / count
        up = (level - row - 0.5) * spacing
        return (across * length(p[::2])).square() + up.square() < radius**2

    return region


def zigzag(count: int, height: float, amplitude: float, width: float) -> Region:
    """Return a zigzag line of `count` teeth around y at `height`."""

    def region(p: Points) -> Tensor:
        wave = ((_turns(p) * count) % 1 - 0.5).abs() * 4 - 1
        return (p[1] - height - amplitude * wave).abs() < width

    return region


def spots(centres: Sequence[Triple] | np.ndarray, radius: float) -> Region:
    """Return balls around centres."""
    at = torch.tensor(centres, dtype=torch.float32).T[:, :, None]
    return lambda p: (p[:, None] - at).square().sum(0).amin(0) < radius**2


def patches(seed: int, reach: Triple, bottom: float, radius: float) -> Region:
    """Return seven round patches spread over a body that reaches `reach` from (0, bottom, 0)."""
    rng = np.random.default_rng(seed)
    angle = 2.4 * np.arange(7) + rng.uniform(0, math.tau)  # the golden angle keeps them apart
    height = bottom + reach[1] * (rng.permutation(7) + rng.uniform(0, 1, 7)) / 7
    return spots(np.stack([reach[0] * np.sin(angle), height, reach[2] * np.cos(angle)], 1), radius)
