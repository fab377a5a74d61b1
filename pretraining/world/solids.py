"""Solids as signed distances with bounds: primitives, and ways to place, join and cut them.

A solid's distance takes points `(3, n)` to `(n,)`: negative inside, a lower bound of the true
distance outside. Its support gives how far it reaches in a direction, so that a renderer looks
only where it can be. Coordinates are the first dimension, so operations run over contiguous
memory. Lengths are in toy units: a toy stands on y = 0 and is about 2 high, y up, z to the front.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

Points = Float[Tensor, "_ n"]
Values = Float[Tensor, " n"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """A signed distance, and the largest `direction . point` over the solid, by direction."""

    distance: Callable[[Points], Values]
    support: Callable[[Points], Values]

    def at(self, *centre: float, turned: tuple[str, float] | None = None) -> "Solid":
        """Turn the solid about an axis by degrees, then move it to `centre`."""
        c = vector(centre)
        back = turn(*turned).T.contiguous().matmul if turned else lambda v: v
        distance, support = self.distance, self.support
        return Solid(lambda p: distance(back(p - c)), lambda d: dot(d, c) + support(back(d)))

    def __sub__(self, hole: "Solid") -> "Solid":
        """Cut a hole."""
        return Solid(lambda p: torch.maximum(self.distance(p), -hole.distance(p)), self.support)


def vector(values: Sequence[float]) -> Float[Tensor, "k 1"]:
    """Return numbers as a column."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def length(v: Points) -> Values:
    """Return the lengths of columns."""
    return v.square().sum(0).sqrt()


def dot(a: Float[Tensor, "k _"], b: Float[Tensor, "k _"]) -> Values:
    """Return the products of columns."""
    return (a * b).sum(0)


def turn(axis: str, degrees: float) -> Float[Tensor, "3 3"]:
    """Return the rotation about `axis` ("x", "y" or "z")."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    k = "xyz".index(axis)
    about_x = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float32)
    return about_x.roll((k, k), (0, 1))


def sphere(radius: float) -> Solid:
    """Return a ball."""
    return Solid(lambda p: length(p) - radius, lambda d: torch.full_like(d[0], radius))


def ellipsoid(*radii: float) -> Solid:
    """Return an ellipsoid; its distance is first order, exact at the surface."""
    r = vector(radii)

    def distance(p: Points) -> Values:
        q = p / r
        k = length(q)
        return k * (k - 1) / length(q / r).clamp_min(1e-6)

    return Solid(distance, lambda d: length(d * r))


def capsule(start: Triple, end: Triple, radius: float, end_radius: float | None = None) -> Solid:
    """Return the hull of two balls, the second of `end_radius` (default: the first's)."""
    a, b = vector(start), vector(end)
    axis, last = b - a, radius if end_radius is None else end_radius
    along = axis / axis.square().sum()
    # The nearest of the balls between the ends lies off the foot of the perpendicular.
    slope = (last - radius) / float(axis.norm())
    lean = slope / math.sqrt(1 - slope**2) / float(axis.norm())

    def distance(p: Points) -> Values:
        q = p - a
        t = dot(q, along)
        if lean:
            t = t + lean * length(q - axis * t)
        t = t.clamp(0, 1)
        return length(q - axis * t) - radius - (last - radius) * t

    return Solid(distance, lambda d: torch.maximum(dot(d, a) + radius, dot(d, b) + last))


def box(*half: float, rounding: float) -> Solid:
    """Return a box with rounded edges; `half` are its half sides."""
    return _rounded(vector(half), vector(half) - rounding, rounding)


def _rounded(half: Tensor, inner: Tensor, rounding: float) -> Solid:
    def distance(p: Points) -> Values:
        gaps = p.abs() - inner
        return length(gaps.clamp_min(0)) + gaps.amax(0).clamp_max(0) - rounding

    return Solid(distance, lambda d: dot(d.abs(), half))


def revolved(profile: Solid) -> Solid:
    """Turn a flat solid, of points (distance from y, height), into one of revolution about y."""

    def flat(p: Points) -> Points:
        return torch.stack([length(p[::2]), p[1]])

    return Solid(lambda p: profile.distance(flat(p)), lambda d: profile.support(flat(d)))


def cylinder(radius: float, half: float, *, rounding: float) -> Solid:
    """Return a cylinder about y with rounded edges; `half` is half its height."""
    inner = vector((radius - rounding, half - rounding))
    return revolved(_rounded(vector((radius, half)), inner, rounding))


def torus(ring: float, radius: float) -> Solid:
    """Return a ring about y."""
    return revolved(sphere(radius).at(ring, 0))


def lathe(keys: Sequence[tuple[float, float]], pieces: int = 96) -> Solid:
    """Return a solid of revolution about y, smooth through `(height, radius)` keys."""
    bottom, top = keys[0][0], keys[-1][0]
    heights = torch.linspace(bottom, top, pieces + 1)
    radii = torch.tensor(PchipInterpolator(*np.transpose(keys))(heights.numpy())).float()
    steps, scale = radii.diff(append=radii[-1:]), pieces / (top - bottom)
    # A slope makes the level gap overstate the distance by sqrt(1 + slope^2).
    slack = 1 / math.sqrt(1 + (float(steps.abs().max()) * scale) ** 2)

    def distance(p: Points) -> Values:
        across, y = p
        at = (y.clamp(bottom, top) - bottom) * scale
        i = at.long()
        gap = (across - radii[i] - (at - i) * steps[i]) * slack
        up = torch.maximum(bottom - y, y - top)
        outside = (gap.clamp_min(0).square() + up.square()).sqrt()
        return torch.where(up > 0, outside, torch.maximum(gap, up))

    r, y = radii[:, None], heights[:, None]
    return revolved(Solid(distance, lambda d: (y * d[1] + r * d[0]).amax(0)))


def union(*solids: Solid, blend: float = 0.05) -> Solid:
    """Join solids; seams are `blend` wide and rounded. Never above the smallest distance."""

    def distance(p: Points) -> Values:
        d = solids[0].distance(p)
        for other in solids[1:]:
            e = other.distance(p)
            seam = (blend - (d - e).abs()).clamp_min(0)
            d = torch.minimum(d, e) - seam * seam / (4 * blend)
        return d

    def support(d: Points) -> Values:
        return torch.stack([solid.support(d) for solid in solids]).amax(0) + blend / 4

    return Solid(distance, support)
