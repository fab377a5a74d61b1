"""Car, chair, hat, sunglasses, flower and lamp."""

import math
from collections.abc import Mapping

from pretraining.world.colours import DARK, Rgb, dots, flat, panels, where
from pretraining.world.render import Part
from pretraining.world.solids import (
    Solid,
    box,
    capsule,
    cylinder,
    ellipsoid,
    lathe,
    minus,
    sphere,
    turn,
    union,
)
from pretraining.world.toys.base import Parameters, Toy

_UPRIGHT = turn("x", 90)
GLASS: Rgb = (0.6, 0.8, 0.92)
LEAF: Rgb = (0.2, 0.55, 0.2)
PETALS = ("red", "orange", "yellow", "blue", "purple", "pink", "white", "turquoise")


def _car(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, second, long = p["main"][1], p["second"][1], p["length"]
    cabs: dict[str, tuple[Solid, float]] = {
        "sedan": (box((0.05, 0.8, 0), (0.52 * long, 0.27, 0.38), 0.14), 0.8),
        "beetle": (ellipsoid((0.02, 0.6, 0), (0.74 * long, 0.55, 0.43)), 0.83),
        "van": (box((0.1, 0.9, 0), (0.8 * long, 0.42, 0.42), 0.12), 0.97),
    }
    cab, level = cabs[p["kind"]]
    windows = where(
        lambda q: ((q[1] - level).abs() < 0.13) & ((q[0] * 2 / long + 0.5) % 1 > 0.16),
        GLASS,
        second,
    )
    parts: list[Part] = [(box((0, 0.44, 0), (long, 0.24, 0.46), 0.16), flat(main)), (cab, windows)]
    for x in (-0.58 * long, 0.58 * long):
        hub = where(lambda q, x=x: (q[0] - x) ** 2 + (q[1] - 0.24) ** 2 < 0.014, p["hub"][1], DARK)
        parts += [(cylinder((x, 0.24, z), 0.24, 0.1, 0.04, _UPRIGHT), hub) for z in (-0.42, 0.42)]
    lamps = union(*(sphere((0.02 - long, 0.5, z), 0.1) for z in (-0.28, 0.28)))
    return [*parts, (lamps, flat((1, 1, 0.75)))]


def _chair(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, w, top = flat(p["main"][1]), p["width"], 0.75 + p["height"]
    if p["kind"] == "solid":
        back = box((0, (top + 0.7) / 2, -0.37), (w, (top - 0.7) / 2, 0.08), 0.06)
    elif p["kind"] == "round":
        back = ellipsoid((0, 0.75 + p["height"] * 0.5, -0.37), (w, p["height"] * 0.58, 0.11))
    else:
        slats = (
            capsule((x * (w - 0.08), 0.7, -0.37), (x * (w - 0.08), top, -0.39), 0.085)
            for x in (-1, 0, 1)
        )
        back = union(*slats, box((0, top, -0.39), (w, 0.11, 0.08), 0.05))
    legs = (
        capsule((x * (w - 0.08), 0.66, z * 0.33), (x * (w - 0.04), 0.09, z * 0.36), 0.09)
        for x in (-1, 1)
        for z in (-1, 1)
    )
    return [
        (box((0, 0.68, 0), (w, 0.09, 0.43), 0.05), main),
        (back, main),
        (union(*legs), main),
        (box((0, 0.82, 0.04), (w - 0.03, 0.1, 0.37), 0.08), flat(p["second"][1])),
    ]


def _hat(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, h, r = p["main"][1], p["height"], p["crown"]
    brim = r * p["brim"]
    crowns = {
        "top": lathe([(0.1, r * 0.95), (h, r * 0.92), (1.25 * h, r * 1.08)]),
        "round": minus(
            ellipsoid((0, 0.1, 0), (r * 1.1, h, r * 1.1)), box((0, -0.95, 0), (1, 1, 1), 0.01)
        ),
        "cone": lathe([(0.1, r * 1.1), (0.9 * h, r * 0.5), (1.6 * h, 0.07)]),
    }
    disc = cylinder((0, 0.1, 0), brim, 0.1, 0.09)
    ribbon = where(lambda q: q[1] < 0.36, p["second"][1], main)
    return [(disc, flat(main)), (crowns[p["kind"]], ribbon)]


def _sunglasses(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, lens, r = flat(p["main"][1]), flat(p["second"][1]), p["radius"]
    parts: list[Part] = []
    for s in (-1, 1):
        centre = (s * (r + 0.13), 0.45, 0.4)
        front = (centre[0], 0.45, 0.44)
        if p["kind"] == "square":
            parts += [
                (box(centre, (r + 0.07, r * 0.9, 0.09), 0.06), main),
                (box(front, (r - 0.04, r * 0.9 - 0.11, 0.09), 0.05), lens),
            ]
        else:
            k = 1.0 if p["kind"] == "round" else 0.78
            parts += [
                (ellipsoid(centre, (r + 0.08, (r + 0.08) * k, 0.11)), main),
                (ellipsoid(front, (r - 0.03, (r - 0.03) * k, 0.11)), lens),
            ]
        arm = capsule((s * (2 * r + 0.16), 0.5, 0.36), (s * (2 * r + 0.12), 0.32, -0.5), 0.08)
        parts.append((arm, main))
    return [*parts, (capsule((-0.12, 0.55, 0.42), (0.12, 0.55, 0.42), 0.085), main)]


def _flower(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, second, y = flat(p["main"][1]), flat(p["second"][1]), 1.35
    stem = union(
        capsule((0, 0.45, 0), (0, y, 0), 0.09),
        *(
            ellipsoid((s * 0.26, 0.82, 0), (0.27 * p["leaf"], 0.11, 0.1), turn("z", s * 35))
            for s in (-1, 1)
        ),
    )
    pot = lathe([(0, 0.27), (0.42, 0.38), (0.52, 0.42)])
    parts: list[Part] = [(pot, flat(p["pot"][1])), (stem, flat(LEAF))]
    if p["kind"] == "ball":
        spots = dots(7, 0.1, 0.24, p["phase"])
        return [*parts, (sphere((0, y + 0.1, 0), 0.42), where(spots, second, main))]
    count = int(p["count"]) if p["kind"] == "daisy" else 4
    for i in range(count):
        a = math.tau * i / count
        if p["kind"] == "daisy":
            at = (0.36 * math.sin(a), y + 0.1 + 0.36 * math.cos(a), 0.05)
            parts.append((ellipsoid(at, (0.19, 0.19, 0.1)), main))
        else:
            at = (0.16 * math.sin(a), y + 0.1, 0.16 * math.cos(a))
            parts.append((ellipsoid(at, (0.2, 0.4, 0.2)), second if i % 2 else main))
    if p["kind"] == "daisy":
        parts.append((ellipsoid((0, y + 0.1, 0.1), (0.22, 0.22, 0.15)), second))
    return parts


def _lamp(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, second, h, wide = flat(p["main"][1]), flat(p["second"][1]), p["height"], p["shade"]
    foot = union(ellipsoid((0, 0.1, 0), (0.36, 0.12, 0.36)), capsule((0, 0.1, 0), (0, h, 0), 0.09))
    shades = {
        "ball": sphere((0, h + 0.12, 0), wide * 0.9),
        "cone": lathe([(h - 0.3, wide), (h + 0.35, wide * 0.5)], pieces=1),
        "drum": lathe([(h - 0.3, wide), (h + 0.3, wide * 0.9)], pieces=1),
    }
    paint = where(panels(8, p["phase"]), second, main) if p["pattern"] == "stripes" else main
    return [(foot, second), (shades[p["kind"]], paint)]


CAR = Toy(
    _car,
    kinds=("sedan", "beetle", "van"),
    numbers={"length": (0.9, 1.1)},
    colours={"hub": ("gray", "white", "yellow")},
    yaws=(0, 50),
)
CHAIR = Toy(
    _chair,
    kinds=("solid", "slats", "round"),
    numbers={"height": (0.75, 1.0), "width": (0.42, 0.52)},
    yaws=(5, 45),
)
HAT = Toy(
    _hat,
    kinds=("top", "round", "cone"),
    numbers={"height": (0.6, 0.85), "brim": (1.6, 1.9), "crown": (0.4, 0.5)},
)
SUNGLASSES = Toy(
    _sunglasses,
    second=("black", "blue", "purple", "orange", "green", "pink", "brown"),
    kinds=("round", "square", "wide"),
    numbers={"radius": (0.33, 0.4)},
)
FLOWER = Toy(
    _flower,
    main=PETALS,
    second=PETALS,
    kinds=("daisy", "tulip", "ball"),
    numbers={"count": (5, 8), "leaf": (0.85, 1.15), "phase": (0, 1)},
    colours={"pot": ("brown", "orange", "blue", "white", "black", "red", "green")},
)
LAMP = Toy(
    _lamp,
    patterns=("plain", "stripes"),
    kinds=("cone", "drum", "ball"),
    numbers={"height": (1.0, 1.35), "shade": (0.45, 0.58), "phase": (0, 1)},
)
