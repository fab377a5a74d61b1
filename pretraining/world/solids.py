"""Solids as signed distances: primitives, and ways to join and cut them.

A solid is a function from points `(3, n)` to signed distances `(n,)`: negative inside, a lower
bound of the true distance outside. Coordinates stay in the first dimension, so every operation
runs over contiguous memory. Lengths are in toy units: a toy stands on y = 0 and is about 2 high;
y points up and z towards the viewer.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "3 n"]
Solid = Callable[[Float[Tensor, "3 n"]], Float[Tensor, " n"]]
Triple = tuple[float, float, float]


def vector(values: Sequence[float]) -> Float[Tensor, "3 1"]:
    """Return three numbers as a column."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def turn(axis: str, degrees: float) -> Float[Tensor, "3 3"]:
    """Return the rotation about `axis` ("x", "y" or "z")."""
    a = math.radians(degrees)
    c, s = math.cos(a), math.sin(a)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return torch.tensor(rows[axis], dtype=torch.float32)


def _local(p: Points, centre: Tensor, turned: Tensor | None) -> Tensor:
    q = p - centre
    return q if turned is None else turned.T @ q


def sphere(centre: Triple, radius: float) -> Solid:
    """Return a ball."""
    c = vector(centre)
    return lambda p: (p - c).square().sum(0).sqrt() - radius


def ellipsoid(centre: Triple, radii: Triple, turned: Tensor | None = None) -> Solid:
    """Return an ellipsoid; its distance is first order, exact at the surface."""
    c, r = vector(centre), vector(radii)

    def distance(p: Points) -> Tensor:
        q = _local(p, c, turned) / r
        k = q.square().sum(0).sqrt()
        return k * (k - 1) / (q / r).square().sum(0).sqrt().clamp_min(1e-6)

    return distance


def capsule(start: Triple, end: Triple, radius: float, end_radius: float | None = None) -> Solid:
    """Return a rod with round ends, tapering to `end_radius`."""
    a, b = vector(start), vector(end)
    axis = b - a
    along = axis / axis.square().sum()
    taper = 0.0 if end_radius is None else end_radius - radius

    def distance(p: Points) -> Tensor:
        q = p - a
        t = (q * along).sum(0).clamp(0, 1)
        return (q - axis * t).square().sum(0).sqrt() - radius - taper * t

    return distance


def box(centre: Triple, half: Triple, rounding: float, turned: Tensor | None = None) -> Solid:
    """Return a box with rounded edges; `half` are its half sides."""
    c, h = vector(centre), vector(half) - rounding

    def distance(p: Points) -> Tensor:
        q = _local(p, c, turned).abs() - h
        return q.clamp_min(0).square().sum(0).sqrt() + q.amax(0).clamp_max(0) - rounding

    return distance


def cylinder(
    centre: Triple, radius: float, half: float, rounding: float, turned: Tensor | None = None
) -> Solid:
    """Return a cylinder about y with rounded edges; `half` is half its height."""
    c = vector(centre)

    def distance(p: Points) -> Tensor:
        x, y, z = _local(p, c, turned)
        across = (x * x + z * z).sqrt() - (radius - rounding)
        up = y.abs() - (half - rounding)
        outside = (across.clamp_min(0).square() + up.clamp_min(0).square()).sqrt()
        return outside + torch.maximum(across, up).clamp_max(0) - rounding

    return distance


def torus(centre: Triple, ring: float, radius: float, turned: Tensor | None = None) -> Solid:
    """Return a ring about y."""
    c = vector(centre)

    def distance(p: Points) -> Tensor:
        x, y, z = _local(p, c, turned)
        across = (x * x + z * z).sqrt() - ring
        return (across * across + y * y).sqrt() - radius

    return distance


def lathe(keys: Sequence[tuple[float, float]], pieces: int = 24) -> Solid:
    """Return a solid of revolution about y through `(height, radius)` keys, eased between them."""
    bottom, top = keys[0][0], keys[-1][0]
    heights = [bottom + (top - bottom) * i / pieces for i in range(pieces + 1)]
    radii = torch.tensor([_eased(keys, y) for y in heights])
    radii = torch.cat([radii, radii[-1:]])
    steps, scale = radii.diff(), pieces / (top - bottom)
    # A slope makes the horizontal gap overstate the distance by sqrt(1 + slope^2).
    slack = 1 / math.sqrt(1 + (float(steps.abs().max()) * scale) ** 2)

    def distance(p: Points) -> Tensor:
        x, y, z = p
        inside = y.clamp(bottom, top)
        at = (inside - bottom) * scale
        i = at.long().clamp_max(pieces)
        gap = ((x * x + z * z).sqrt() - radii[i] - (at - i) * steps[i.clamp_max(pieces)]) * slack
        up = (y - inside).abs()
        edge = torch.maximum(bottom - y, y - top)
        solid = torch.maximum(gap, edge)
        return torch.where(up > 0, (gap.clamp_min(0).square() + up * up).sqrt(), solid)

    return distance


def _eased(keys: Sequence[tuple[float, float]], y: float) -> float:
    """Interpolate half linearly, half by a smooth step, so that keys leave no kinks."""
    for (y0, r0), (y1, r1) in zip(keys, keys[1:], strict=False):
        if y <= y1 + 1e-9:
            t = (y - y0) / (y1 - y0)
            return r0 + (r1 - r0) * (t * t * (3 - 2 * t) + t) / 2
    return keys[-1][1]


def union(*solids: Solid, blend: float = 0.05) -> Solid:
    """Join solids; seams are rounded over a width of `blend`. Never above the smallest distance."""

    def distance(p: Points) -> Tensor:
        d = solids[0](p)
        for other in solids[1:]:
            e = other(p)
            seam = (blend - (d - e).abs()).clamp_min(0)
            d = torch.minimum(d, e) - seam * seam / (4 * blend)
        return d

    return distance


def minus(solid: Solid, hole: Solid) -> Solid:
    """Cut `hole` out of `solid`."""
    return lambda p: torch.maximum(solid(p), -hole(p))


def shell(solid: Solid, thickness: float) -> Solid:
    """Return the skin of a solid, `thickness` to either side of its surface."""
    return lambda p: solid(p).abs() - thickness
