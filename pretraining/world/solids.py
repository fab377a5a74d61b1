"""Solids as signed distances with bounds: primitives, and ways to join and cut them.

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

Points = Float[Tensor, "3 n"]
Column = Float[Tensor, "3 1"]
Number = float | int  # type checks at run time take no int for a float
Triple = tuple[Number, Number, Number]


@dataclass(frozen=True)
class Solid:
    """A signed distance, and the largest `direction . point` over the solid, by direction."""

    distance: Callable[[Points], Float[Tensor, " n"]]
    support: Callable[[Points], Float[Tensor, " n"]]


def vector(values: Sequence[Number]) -> Column:
    """Return three numbers as a column."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def turn(axis: str, degrees: Number) -> Float[Tensor, "3 3"]:
    """Return the rotation about `axis` ("x", "y" or "z")."""
    a = math.radians(degrees)
    c, s = math.cos(a), math.sin(a)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return torch.tensor(rows[axis], dtype=torch.float32)


def _placed(solid: Solid, centre: Triple, turned: Tensor | None) -> Solid:
    """Turn a solid about the origin, then move it to `centre`."""
    c = vector(centre)
    if turned is None:
        return Solid(lambda p: solid.distance(p - c), lambda d: (d * c).sum(0) + solid.support(d))
    back = turned.T.contiguous()
    return Solid(
        lambda p: solid.distance(back @ (p - c)),
        lambda d: (d * c).sum(0) + solid.support(back @ d),
    )


def sphere(centre: Triple, radius: Number) -> Solid:
    """Return a ball."""
    c = vector(centre)
    return Solid(
        lambda p: (p - c).square().sum(0).sqrt() - radius, lambda d: (d * c).sum(0) + radius
    )


def ellipsoid(centre: Triple, radii: Triple, turned: Tensor | None = None) -> Solid:
    """Return an ellipsoid; its distance is first order, exact at the surface."""
    r = vector(radii)

    def distance(p: Points) -> Tensor:
        q = p / r
        k = q.square().sum(0).sqrt()
        return k * (k - 1) / (q / r).square().sum(0).sqrt().clamp_min(1e-6)

    return _placed(Solid(distance, lambda d: (d * r).square().sum(0).sqrt()), centre, turned)


def capsule(start: Triple, end: Triple, radius: Number, end_radius: Number | None = None) -> Solid:
    """Return the hull of two balls, the second of `end_radius` (default: the first's)."""
    a, b = vector(start), vector(end)
    axis = b - a
    along = axis / axis.square().sum()
    last = radius if end_radius is None else end_radius
    # The nearest of the balls between the ends lies off the foot of the perpendicular.
    slope = (last - radius) / float(axis.norm())
    lean = slope / math.sqrt(1 - slope**2) / float(axis.norm())

    def distance(p: Points) -> Tensor:
        q = p - a
        t = (q * along).sum(0)
        if lean:
            t = t + lean * (q - axis * t).square().sum(0).sqrt()
        t = t.clamp(0, 1)
        return (q - axis * t).square().sum(0).sqrt() - radius - (last - radius) * t

    return Solid(distance, lambda d: torch.maximum((d * a).sum(0) + radius, (d * b).sum(0) + last))


def box(centre: Triple, half: Triple, rounding: Number, turned: Tensor | None = None) -> Solid:
    """Return a box with rounded edges; `half` are its half sides."""
    h = vector(half)

    def distance(p: Points) -> Tensor:
        q = p.abs() - (h - rounding)
        return q.clamp_min(0).square().sum(0).sqrt() + q.amax(0).clamp_max(0) - rounding

    return _placed(Solid(distance, lambda d: (d.abs() * h).sum(0)), centre, turned)


def cylinder(
    centre: Triple, radius: Number, half: Number, rounding: Number, turned: Tensor | None = None
) -> Solid:
    """Return a cylinder about y with rounded edges; `half` is half its height."""

    def distance(p: Points) -> Tensor:
        across = _across(p) - (radius - rounding)
        up = p[1].abs() - (half - rounding)
        outside = (across.clamp_min(0).square() + up.clamp_min(0).square()).sqrt()
        return outside + torch.maximum(across, up).clamp_max(0) - rounding

    solid = Solid(distance, lambda d: radius * _across(d) + half * d[1].abs())
    return _placed(solid, centre, turned)


def torus(centre: Triple, ring: Number, radius: Number, turned: Tensor | None = None) -> Solid:
    """Return a ring about y."""
    solid = Solid(
        lambda p: ((_across(p) - ring).square() + p[1].square()).sqrt() - radius,
        lambda d: ring * _across(d) + radius,
    )
    return _placed(solid, centre, turned)


def lathe(keys: Sequence[tuple[Number, Number]], pieces: int = 96) -> Solid:
    """Return a solid of revolution about y, smooth through `(height, radius)` keys."""
    bottom, top = keys[0][0], keys[-1][0]
    heights = torch.linspace(bottom, top, pieces + 1)
    radii = torch.tensor(PchipInterpolator(*np.transpose(keys))(heights.numpy())).float()
    steps, scale = radii.diff(append=radii[-1:]), pieces / (top - bottom)
    # A slope makes the level gap overstate the distance by sqrt(1 + slope^2).
    slack = 1 / math.sqrt(1 + (float(steps.abs().max()) * scale) ** 2)

    def distance(p: Points) -> Tensor:
        inside = p[1].clamp(bottom, top)
        at = (inside - bottom) * scale
        i = at.long()
        gap = (_across(p) - radii[i] - (at - i) * steps[i]) * slack
        up = torch.maximum(bottom - p[1], p[1] - top)
        outside = (gap.clamp_min(0).square() + up.square()).sqrt()
        return torch.where(up > 0, outside, torch.maximum(gap, up))

    def support(d: Points) -> Tensor:
        return (heights[:, None] * d[1] + radii[:, None] * _across(d)).amax(0)

    return Solid(distance, support)


def _across(p: Points) -> Float[Tensor, " n"]:
    """Return the distance from the y axis."""
    return (p[0].square() + p[2].square()).sqrt()


def union(*solids: Solid, blend: Number = 0.05) -> Solid:
    """Join solids; seams are `blend` wide are rounded. Never above the smallest distance."""

    def distance(p: Points) -> Tensor:
        d = solids[0].distance(p)
        for other in solids[1:]:
            e = other.distance(p)
            seam = (blend - (d - e).abs()).clamp_min(0)
            d = torch.minimum(d, e) - seam * seam / (4 * blend)
        return d

    def support(d: Points) -> Tensor:
        return torch.stack([solid.support(d) for solid in solids]).amax(0) + blend / 4

    return Solid(distance, support)


def minus(solid: Solid, hole: Solid) -> Solid:
    """Cut `hole` out of `solid`."""
    return Solid(lambda p: torch.maximum(solid.distance(p), -hole.distance(p)), solid.support)
