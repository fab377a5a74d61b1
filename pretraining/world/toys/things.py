"""The other toys; rims, handles, ribbons, cushions and the like show the second colour."""

import math

import torch

from pretraining.world.colours import (
    DARK,
    Paint,
    Traits,
    dots,
    marked,
    panels,
    stripes,
    where,
    zigzag,
)
from pretraining.world.render import Part
from pretraining.world.solids import box, capsule, cylinder, ellipsoid, lathe, sphere, torus, union
from pretraining.world.toys.animals import eyes

GLASS, LEAF, LIPS = (0.6, 0.8, 0.92), (0.2, 0.55, 0.2), (0.75, 0.25, 0.25)
PALE, DEEP = (0.98, 0.82, 0.7), (0.42, 0.27, 0.18)


def _handle(t: Traits, x: float, y: float, ring: float, radius: float) -> Part:
    return torus(ring, radius).at(x, y, 0, turned=("x", 90)), t.second


def _covered(t: Traits, height: float) -> Paint:
    """Return the paint of a round body of that height: main colour, patterned in the second."""
    count, level = int(t.count), t.level * height
    regions = {
        "band": lambda p: (p[1] - level).abs() < 0.17 * height,
        "stripes": stripes(height / 4, t.phase, 0.5),
        "dots": dots(count, 0.095 * height, 0.28 * height, t.phase),
        "zigzag": zigzag(count, level, 0.11 * height, 0.08 * height),
        "panels": panels(count // 2 * 2, t.phase),
    }
    return where(regions[t.pattern], t.second, t.main) if t.pattern in regions else t.main


def jar(t: Traits) -> list[Part]:
    """Build a jar with no, one or two handles."""
    h, neck = t.height, t.neck
    rim = where(lambda q: q[1] > 0.93 * h, t.second, _covered(t, h))
    mouth = where(lambda q: (q[1] > 0.985 * h) & (q[::2].square().sum(0) < neck**2), DARK, rim)
    body = lathe([(0, t.foot), (t.at * h, t.belly), (0.86 * h, neck), (h, neck + 0.08)])
    sides = {"plain": (), "jug": (1,), "two handles": (-1, 1)}[t.kind]
    at = t.belly * 0.55 + neck * 0.5
    return [(body, mouth), *(_handle(t, s * at, 0.74 * h, 0.2, 0.085) for s in sides)]


def teapot(t: Traits) -> list[Part]:
    """Build a teapot; its spout is of the main colour."""
    h, belly, reach = t.height, t.belly, t.spout
    bend, tip = (-belly - 0.28 * reach, 0.75 * h, 0), (-belly - 0.42 * reach, 0.97 * h, 0)
    start = capsule((-belly * 0.8, 0.35 * h, 0), bend, 0.15, 0.1)
    return [
        (lathe([(0, 0.32), (0.45 * h, belly), (0.9 * h, 0.34), (h, 0.3)]), _covered(t, h)),
        (union(ellipsoid(0.32, 0.13, 0.32).at(0, h, 0), sphere(0.1).at(0, h + 0.18, 0)), t.second),
        (union(start, capsule(bend, tip, 0.1, 0.09), blend=0.08), t.main),
        _handle(t, belly + 0.08, 0.55 * h, 0.28, 0.09),
    ]


def cup(t: Traits) -> list[Part]:
    """Build an open cup; its inside is of the second colour."""
    h, r, foot = t.height, t.radius, t.radius * t.taper
    bore = 0.84 * min(r, foot * 1.05)
    body = lathe([(0, foot), (h, r)], pieces=1)
    body -= cylinder(bore, 0.8 * h, rounding=0.05).at(0, h, 0)
    inside = where(lambda q: q[::2].square().sum(0) < (bore + 0.01) ** 2, t.second, _covered(t, h))
    return [(body, inside), _handle(t, r * 0.97 + 0.06, 0.5 * h, 0.23, 0.09)]


def barrel(t: Traits) -> list[Part]:
    """Build a barrel of staves; its hoops are of the second colour."""
    h, levels = t.height, {"two hoops": (0.2, 0.8), "three hoops": (0.12, 0.5, 0.88)}[t.kind]
    hoops = torch.tensor(levels)[:, None] * h
    dark, lid = (tuple(c * k for c in t.main) for k in (0.55, 0.8))
    wood = where(
        lambda q: q[1] > h - 0.02, lid, where(panels(int(t.count), 0, 0.86), t.main, dark)
    )
    bound = where(lambda q: ((q[1] - hoops).abs() < 0.085).any(0), t.second, wood)
    return [(lathe([(0, 0.5), (h / 2, 0.5 + t.bulge), (h, 0.5)]), bound)]


def ball(t: Traits) -> list[Part]:
    """Build a ball with a cap of the second colour."""
    return [(sphere(0.6).at(0, 0.6, 0), where(lambda q: q[1] > 1.13, t.second, _covered(t, 1.2)))]


def car(t: Traits) -> list[Part]:
    """Build a car; its cabin is of the second colour."""
    long, upright = t.length, ("x", 90)
    cab, level = {
        "sedan": (box(0.52 * long, 0.27, 0.38, rounding=0.14).at(0.05, 0.8, 0), 0.8),
        "beetle": (ellipsoid(0.74 * long, 0.55, 0.43).at(0.02, 0.6, 0), 0.83),
        "van": (box(0.8 * long, 0.42, 0.42, rounding=0.12).at(0.1, 0.9, 0), 0.97),
    }[t.kind]
    windows = where(
        lambda q: ((q[1] - level).abs() < 0.13) & ((q[0] * 2 / long + 0.5) % 1 > 0.16),
        GLASS,
        t.second,
    )
    body = box(long, 0.24, 0.46, rounding=0.16).at(0, 0.44, 0)
    parts: list[Part] = [(body, t.main), (cab, windows)]
    for x in (-0.58 * long, 0.58 * long):
        hub = where(lambda q, x=x: (q[0] - x) ** 2 + (q[1] - 0.24) ** 2 < 0.014, t.hub, DARK)
        wheel = cylinder(0.24, 0.1, rounding=0.04)
        parts += [(wheel.at(x, 0.24, z, turned=upright), hub) for z in (-0.42, 0.42)]
    lamps = union(*(sphere(0.1).at(0.02 - long, 0.5, z) for z in (-0.28, 0.28)))
    return [*parts, (lamps, (1, 1, 0.75))]


def chair(t: Traits) -> list[Part]:
    """Build a chair; its cushion is of the second colour."""
    w, top, side = t.width, 0.75 + t.height, t.width - 0.08
    rail = box(w, 0.11, 0.08, rounding=0.05).at(0, top, -0.39)
    slats = [capsule((x, 0.7, -0.37), (x, top, -0.39), 0.085) for x in (-side, 0, side)]
    panel = box(w, (top - 0.7) / 2, 0.08, rounding=0.06).at(0, (top + 0.7) / 2, -0.37)
    disc = ellipsoid(w, t.height * 0.58, 0.11).at(0, 0.75 + t.height * 0.5, -0.37)
    back = {"solid": panel, "round": disc, "slats": union(*slats, rail)}[t.kind]
    legs = (
        capsule((x * side, 0.66, z * 0.33), (x * (w - 0.04), 0.09, z * 0.36), 0.09)
        for x in (-1, 1)
        for z in (-1, 1)
    )
    return [
        (box(w, 0.09, 0.43, rounding=0.05).at(0, 0.68, 0), t.main),
        (back, t.main),
        (union(*legs), t.main),
        (box(w - 0.03, 0.1, 0.37, rounding=0.08).at(0, 0.82, 0.04), t.second),
    ]


def hat(t: Traits) -> list[Part]:
    """Build a hat with a ribbon of the second colour."""
    h, r = t.height, t.crown
    below = box(1, 1, 1, rounding=0.01).at(0, -0.95, 0)
    crown = {
        "top": lathe([(0.1, r * 0.95), (h, r * 0.92), (1.25 * h, r * 1.08)]),
        "round": ellipsoid(r * 1.1, h, r * 1.1).at(0, 0.1, 0) - below,
        "cone": lathe([(0.1, r * 1.1), (0.9 * h, r * 0.5), (1.6 * h, 0.07)]),
    }[t.kind]
    brim = cylinder(r * t.brim, 0.1, rounding=0.09).at(0, 0.1, 0)
    return [(brim, t.main), (crown, where(lambda q: q[1] < 0.36, t.second, t.main))]


def sunglasses(t: Traits) -> list[Part]:
    """Build sunglasses; their lenses are of the second colour."""
    r, k = t.radius, 0.78 if t.kind == "wide" else 1.0
    frame, lens = (
        ellipsoid(r + 0.08, (r + 0.08) * k, 0.11),
        ellipsoid(r - 0.03, (r - 0.03) * k, 0.11),
    )
    if t.kind == "square":
        frame = box(r + 0.07, r * 0.9, 0.09, rounding=0.06)
        lens = box(r - 0.04, r * 0.9 - 0.11, 0.09, rounding=0.05)
    parts: list[Part] = []
    for s in (-1, 1):
        x = s * (r + 0.13)
        arm = capsule((s * (2 * r + 0.16), 0.5, 0.36), (s * (2 * r + 0.12), 0.32, -0.5), 0.08)
        parts += [(frame.at(x, 0.45, 0.4), t.main), (lens.at(x, 0.45, 0.44), t.second)]
        parts.append((arm, t.main))
    return [*parts, (capsule((-0.12, 0.55, 0.42), (0.12, 0.55, 0.42), 0.085), t.main)]


def flower(t: Traits) -> list[Part]:
    """Build a flower in a pot."""
    y = 1.35
    leaf = ellipsoid(0.27 * t.leaf, 0.11, 0.1)
    leaves = (leaf.at(s * 0.26, 0.82, 0, turned=("z", s * 35)) for s in (-1, 1))
    pot = lathe([(0, 0.27), (0.42, 0.38), (0.52, 0.42)])
    parts: list[Part] = [
        (pot, t.pot),
        (union(capsule((0, 0.45, 0), (0, y, 0), 0.09), *leaves), LEAF),
    ]
    top = y + 0.1
    if t.kind == "ball":
        dotted = where(dots(7, 0.1, 0.24, t.phase), t.second, t.main)
        return [*parts, (sphere(0.42).at(0, top, 0), dotted)]
    count = int(t.count) if t.kind == "daisy" else 4
    for i in range(count):
        across, along = math.sin(math.tau * i / count), math.cos(math.tau * i / count)
        if t.kind == "daisy":
            petal = ellipsoid(0.19, 0.19, 0.1).at(0.36 * across, top + 0.36 * along, 0.05)
        else:
            petal = ellipsoid(0.2, 0.4, 0.2).at(0.16 * across, top, 0.16 * along)
        parts.append((petal, t.second if t.kind == "tulip" and i % 2 else t.main))
    if t.kind == "daisy":
        parts.append((ellipsoid(0.22, 0.22, 0.15).at(0, top, 0.1), t.second))
    return parts


def woman(t: Traits) -> list[Part]:
    """Build a doll in a top of the main colour and a skirt of the second."""
    x, y, lift = t.tilt * 0.06, 1.6, 0.36 * max(0.0, t.arm)
    skin = tuple(a * (1 - t.skin) + b * t.skin for a, b in zip(PALE, DEEP, strict=True))
    hair = ellipsoid(0.34, 0.36, 0.33).at(x, y + 0.05, -0.03)
    hair -= box(0.26, 0.3, 0.26, rounding=0.02).at(x, y - 0.17, 0.32)
    tail = ellipsoid(0.14, 0.28, 0.14)
    locks = {
        "long": ellipsoid(0.36, 0.46, 0.15).at(x, y - 0.3, -0.2),
        "bun": sphere(0.18).at(x, y + 0.42, -0.08),
        "tails": union(*(tail.at(x + s * 0.42, y - 0.12, -0.05) for s in (-1, 1))),
    }
    parts: list[Part] = [
        (lathe([(t.skirt, 0.48), (0.72, 0.29), (0.9, 0.2)]), t.second),
        (ellipsoid(0.29, 0.34, 0.21).at(0, 1.0, 0), t.main),
        (ellipsoid(0.3, 0.32, 0.28).at(x, y, 0.03), skin),
        (ellipsoid(0.08, 0.03, 0.05).at(x, y - 0.15, 0.27), LIPS),
        eyes(x, y, 0.24, 0.12, 0.07),
        (union(hair, locks[t.kind]) if t.kind in locks else hair, t.hair),
    ]
    for s in (-1, 1):
        wrist = (s * 0.43, 0.82 + lift, 0.12)
        parts += [
            (capsule((s * 0.14, 0.75, 0), (s * 0.15, 0.12, 0), 0.12, 0.11), skin),
            (ellipsoid(0.12, 0.1, 0.18).at(s * 0.15, 0.09, 0.06), DARK),
            (capsule((s * 0.24, 1.18, 0), wrist, 0.1), t.main),
            (sphere(0.1).at(s * 0.45, 0.77 + lift, 0.14), skin),
        ]
    return parts


def lamp(t: Traits) -> list[Part]:
    """Build a lamp; its foot is of the second colour."""
    h, wide = t.height, t.shade
    foot = union(ellipsoid(0.36, 0.12, 0.36).at(0, 0.1, 0), capsule((0, 0.1, 0), (0, h, 0), 0.09))
    shade = {
        "ball": sphere(wide * 0.9).at(0, h + 0.12, 0),
        "cone": lathe([(h - 0.3, wide), (h + 0.35, wide * 0.5)], pieces=1),
        "drum": lathe([(h - 0.3, wide), (h + 0.3, wide * 0.9)], pieces=1),
    }[t.kind]
    return [(foot, t.second), (shade, marked(t, "stripes", panels(8, t.phase), t.main))]
