"""Meshes of one colour: profiles turned about the upright axis, ellipsoids and boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

AROUND = 48  # corners of a turned solid's circles
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Piece:
    """A mesh of one colour: corners in centimetres (y is up, z towards the viewer), triangles."""

    corners: Float[np.ndarray, "n 3"]
    triangles: Int[np.ndarray, "m 3"]
    colour: Colour


def turned(profile: Sequence[tuple[float, float]], colour: Colour) -> Piece:
    """Turn a profile of (radius, height) points, from the lowest on, about the upright axis."""
    radii, heights = np.array(profile, dtype=np.float64).T
    angles = 2 * np.pi * np.arange(AROUND) / AROUND
    x = radii[:, None] * np.sin(angles)
    z = radii[:, None] * np.cos(angles)
    y = np.broadcast_to(heights[:, None], x.shape)
    return Piece(np.stack([x, y, z], axis=-1).reshape(-1, 3), _grid(len(radii)), colour)


def ellipsoid(centre: Sequence[float], radii: Sequence[float], colour: Colour) -> Piece:
    """Make an ellipsoid of the given centre and half-axes."""
    turns = np.linspace(-np.pi / 2, np.pi / 2, 24)
    ball = turned([(np.cos(turn), np.sin(turn)) for turn in turns], colour)
    return Piece(ball.corners * np.array(radii) + np.array(centre), ball.triangles, colour)


def box(centre: Sequence[float], sides: Sequence[float], colour: Colour) -> Piece:
    """Make a box of the given centre and full sides."""
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = signs * np.array(sides) / 2 + np.array(centre)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Piece(corners, np.array(triangles), colour)


def _grid(rows: int) -> Int[np.ndarray, "m 3"]:
    triangles = []
    for row in range(rows - 1):
        for k in range(AROUND):
            a, b = row * AROUND + k, row * AROUND + (k + 1) % AROUND
            c, d = a + AROUND, b + AROUND
            triangles += [(a, b, d), (a, d, c)]
    return np.array(triangles)
