"""Jar, teapot, cup, barrel and ball: round bodies; rims and handles show the second colour."""

from collections.abc import Mapping

import torch

from pretraining.world.colours import DARK, flat, panels, where
from pretraining.world.render import Part
from pretraining.world.solids import (
    capsule,
    cylinder,
    ellipsoid,
    lathe,
    minus,
    sphere,
    torus,
    turn,
    union,
)
from pretraining.world.toys.base import COVER_NUMBERS, COVERS, Parameters, Toy, covered

_HANDLE = turn("x", 90)


def _jar(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    h, belly, neck = p["height"], p["belly"], p["neck"]
    second = flat(p["second"][1])
    rim = where(lambda q: q[1] > 0.93 * h, second, covered(p, h))
    mouth = where(
        lambda q: (q[1] > 0.985 * h) & (q[0].square() + q[2].square() < neck**2), DARK, rim
    )
    body = lathe([(0, p["foot"]), (p["at"] * h, belly), (0.86 * h, neck), (h, neck + 0.08)])
    sides = {"plain": (), "jug": (1,), "two handles": (-1, 1)}[p["kind"]]
    at = belly * 0.55 + neck * 0.5
    return [(body, mouth)] + [
        (torus((s * at, 0.74 * h, 0), 0.2, 0.085, _HANDLE), second) for s in sides
    ]


def _teapot(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    h, belly, reach = p["height"], p["belly"], p["spout"]
    second = flat(p["second"][1])
    bend, tip = (-belly - 0.28 * reach, 0.75 * h, 0), (-belly - 0.42 * reach, 0.97 * h, 0)
    spout = union(
        capsule((-belly * 0.8, 0.35 * h, 0), bend, 0.15, 0.1),
        capsule(bend, tip, 0.1, 0.09),
        blend=0.08,
    )
    lid = union(ellipsoid((0, h, 0), (0.32, 0.13, 0.32)), sphere((0, h + 0.18, 0), 0.1))
    return [
        (lathe([(0, 0.32), (0.45 * h, belly), (0.9 * h, 0.34), (h, 0.3)]), covered(p, h)),
        (lid, second),
        (spout, flat(p["main"][1])),
        (torus((belly + 0.08, 0.55 * h, 0), 0.28, 0.09, _HANDLE), second),
    ]


def _cup(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    h, r, foot = p["height"], p["radius"], p["radius"] * p["taper"]
    bore = 0.84 * min(r, foot * 1.05)
    second = flat(p["second"][1])
    body = minus(lathe([(0, foot), (h, r)], pieces=1), cylinder((0, h, 0), bore, 0.8 * h, 0.05))
    inside = where(
        lambda q: q[0].square() + q[2].square() < (bore + 0.01) ** 2, second, covered(p, h)
    )
    return [(body, inside), (torus((r * 0.97 + 0.06, 0.5 * h, 0), 0.23, 0.09, _HANDLE), second)]


def _barrel(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    h, main = p["height"], p["main"][1]
    hoops = {"two hoops": (0.2, 0.8), "three hoops": (0.12, 0.5, 0.88)}[p["kind"]]
    dark, lid = (tuple(c * k for c in main) for k in (0.55, 0.8))
    staves = where(panels(int(p["count"]), 0, 0.86), main, dark)
    wood = where(lambda q: q[1] > h - 0.02, lid, staves)
    bound = where(
        lambda q: torch.stack([(q[1] - level * h).abs() < 0.085 for level in hoops]).any(0),
        p["second"][1],
        wood,
    )
    return [(lathe([(0, 0.5), (h / 2, 0.5 + p["bulge"]), (h, 0.5)]), bound)]


def _ball(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    cap = where(lambda q: q[1] > 1.13, p["second"][1], covered(p, 1.2))
    return [(sphere((0, 0.6, 0), 0.6), cap)]


JAR = Toy(
    _jar,
    patterns=COVERS,
    kinds=("plain", "jug", "two handles"),
    numbers=COVER_NUMBERS
    | {"height": (1.2, 1.7), "belly": (0.48, 0.68), "at": (0.4, 0.62)}
    | {"neck": (0.24, 0.36), "foot": (0.27, 0.4)},
)
TEAPOT = Toy(
    _teapot,
    patterns=COVERS,
    numbers=COVER_NUMBERS | {"height": (0.85, 1.15), "belly": (0.52, 0.68), "spout": (0.8, 1.2)},
    yaws=(0, 35),
)
CUP = Toy(
    _cup,
    patterns=COVERS,
    numbers=COVER_NUMBERS | {"height": (0.85, 1.15), "radius": (0.42, 0.52), "taper": (0.75, 1)},
    yaws=(0, 40),
)
BARREL = Toy(
    _barrel,
    main=("brown", "cream", "black", "white", "red", "green", "blue"),
    second=("black", "gray", "yellow", "red", "white", "brown"),
    kinds=("two hoops", "three hoops"),
    numbers={"height": (1.2, 1.6), "bulge": (0.1, 0.22), "count": (9, 14)},
)
BALL = Toy(_ball, patterns=COVERS[1:], numbers=COVER_NUMBERS)
