"""Cat, dog, rabbit and teddy bear; muzzles, inner ears or feet always show the second colour."""

from pretraining.world.colours import (
    DARK,
    WHITE,
    Paint,
    Traits,
    marked,
    patches,
    spots,
    stripes,
    where,
)
from pretraining.world.render import Part
from pretraining.world.solids import Solid, Triple, capsule, ellipsoid, sphere, torus, union

NOSE: Triple = (0.95, 0.6, 0.65)


def eyes(x: float, y: float, z: float, apart: float, radius: float, iris: Triple = WHITE) -> Part:
    """Return two eyes with dark pupils, seen on any coat."""
    sides = (x - apart, x + apart)
    pupils = spots([(at, y, z + radius) for at in sides], 0.66 * radius)
    return union(*(sphere(radius).at(at, y, z) for at in sides)), where(pupils, DARK, iris)


def _coat(t: Traits, reach: Triple, bottom: float) -> Paint:
    """Return the paint of the whole coat: main, with stripes or patches of the second."""
    striped = marked(t, "stripes", stripes(0.24, t.mark / 1000, 0.45), t.main)
    return marked(t, "patches", patches(int(t.mark), reach, bottom, 0.28), striped)


def _leg(hip: Triple, ankle: Triple, toes: float, long: float, *radii: float) -> Solid:
    """Return a leg with a paw below its ankle."""
    paw = ellipsoid(0.13, 0.1, long).at(ankle[0], 0.09, toes)
    return union(capsule(hip, ankle, *radii), paw, blend=0.06)


def cat(t: Traits) -> list[Part]:
    """Build a sitting cat."""
    head, x, side = t.head, t.tilt * 0.12, t.tail
    coat = _coat(t, (0.38, 1.6, 0.38), 0.2)
    points = t.second if t.pattern == "points" else coat
    tips = t.second if t.pattern == "tuxedo" else points
    chest = marked(t, "tuxedo", lambda q: (q[2] > 0.08) & (q[0].abs() < 0.24), coat)
    face = marked(
        t, "points", lambda q: (q[2] > 0.15) & ((q[0] - x) ** 2 + (q[1] - 1.33) ** 2 < 0.06), coat
    )
    belly = ellipsoid(0.42 * t.fat, 0.52, 0.42 * t.fat).at(0, 0.55, -0.05)
    body = union(belly, ellipsoid(0.28 * t.fat, 0.35, 0.28).at(0, 0.85, 0.05), blend=0.15)
    bend = (0.68 * side, 0.18, -0.2)
    root = capsule((0.2 * side, 0.15, -0.35), bend, 0.1)
    tail = union(root, capsule(bend, (0.78 * side, 0.7, -0.15), 0.1), blend=0.1)
    parts: list[Part] = [
        (body, chest),
        (ellipsoid(0.42 * head, 0.34 * head, 0.34 * head).at(x, 1.38, 0.08), face),
        (ellipsoid(0.17, 0.11, 0.13).at(x, 1.27, 0.08 + 0.28 * head), t.second),
        (sphere(0.055).at(x, 1.33, 0.2 + 0.28 * head), NOSE),
        (tail, where(lambda q: q[1] > 0.5, t.second, points)),
        (torus(0.24, 0.07).at(x * 0.5, 1.08, 0.06), t.collar),
        eyes(x, 1.45, 0.06 + 0.27 * head, 0.18 * head, 0.1, t.iris),
    ]
    for s in (-1, 1):
        base = (x + s * 0.22 * head, 1.38 + 0.2 * head, 0.05)
        tip = (x + s * 0.34 * head, 1.38 + (0.3 + 0.24 * t.ear) * head, 0.02)
        leg = _leg((s * 0.17, 0.75, 0.28), (s * 0.18, 0.1, 0.36), 0.44, 0.15, 0.11)
        parts += [
            (capsule(base, tip, 0.17, 0.035), points),
            (leg, where(lambda q: q[1] < 0.28, tips, coat)),
            (ellipsoid(0.2, 0.22, 0.32).at(s * 0.36 * t.fat, 0.2, 0.12), coat),
        ]
    return parts


def dog(t: Traits) -> list[Part]:
    """Build a dog on four legs."""
    fat, head, x, nose = t.fat, t.head, t.tilt * 0.08, 0.8 + 0.28 * t.muzzle
    coat = _coat(t, (0.28, 1.2, 0.6), 0.4)
    back = where(lambda q: (q[1] > 0.8) & (q[2] < 0.3), t.second, coat)
    chest = capsule((0, 0.82, -0.42), (0, 0.86, 0.3), 0.26 * fat, 0.3 * fat)
    body = union(chest, capsule((0, 0.95, 0.32), (x, 1.32, 0.5), 0.23, 0.2), blend=0.15)
    muzzle = capsule((x, 1.35, 0.7), (x, 1.31, nose), 0.18, 0.14)
    snout = union(muzzle, ellipsoid(0.19, 0.15, 0.2).at(x, 1.3, 0.8), blend=0.08)
    parts: list[Part] = [
        (body, back if t.pattern == "saddle" else coat),
        (ellipsoid(0.31 * head, 0.3 * head, 0.32 * head).at(x, 1.47, 0.55), coat),
        (snout, t.second),
        (sphere(0.09).at(x, 1.38, nose + 0.11), DARK),
        (capsule((0, 0.95, -0.62), (t.tail * 0.12, 1.5, -0.85), 0.11, 0.09), back),
        (torus(0.22, 0.075).at(x * 0.7, 1.17, 0.42, turned=("x", 25)), t.collar),
        eyes(x, 1.57, 0.55 + 0.22 * head, 0.14 * head, 0.095),
    ]
    for s in (-1, 1):
        if t.kind == "floppy":
            ear = ellipsoid(0.1, 0.32 * t.ear, 0.19)
            ear = ear.at(x + s * 0.32 * head, 1.4, 0.48, turned=("z", s * 10))
        else:
            tip = (x + s * 0.25 * head, 1.75 + 0.2 * t.ear, 0.4)
            ear = capsule((x + s * 0.18 * head, 1.6, 0.45), tip, 0.14, 0.05)
        parts.append((ear, coat if t.pattern == "socks" else t.second))
        for z in (-0.5, 0.34):
            hip, ankle = (s * 0.17 * fat, 0.75, z), (s * 0.18, 0.12, z)
            sock = marked(t, "socks", lambda q: q[1] < 0.4, coat)
            parts.append((_leg(hip, ankle, z + 0.06, 0.17, 0.14, 0.11), sock))
    return parts


def rabbit(t: Traits) -> list[Part]:
    """Build a rabbit with upright ears."""
    fat, head, x = t.fat, t.head, t.tilt * 0.1
    coat = _coat(t, (0.38, 1.5, 0.38), 0.1)
    belly = marked(t, "belly", lambda q: (q[2] > 0.1) & (q[0].abs() < 0.27), coat)
    parts: list[Part] = [
        (ellipsoid(0.44 * fat, 0.5, 0.42 * fat).at(0, 0.5, -0.05), belly),
        (ellipsoid(0.35 * head, 0.32 * head, 0.31 * head).at(x, 1.15, 0.1), coat),
        (ellipsoid(0.16, 0.11, 0.11).at(x, 1.05, 0.1 + 0.25 * head), t.second),
        (sphere(0.055).at(x, 1.12, 0.21 + 0.25 * head), NOSE),
        (sphere(0.17).at(0.15, 0.3, -0.45), t.second),
        eyes(x, 1.23, 0.08 + 0.25 * head, 0.17 * head, 0.09),
    ]
    for s in (-1, 1):
        tall, lean, side = 0.42 * t.ear, ("z", -s * 9), x + s * 0.18
        inner = ellipsoid(0.075, tall * 0.8, 0.07).at(side, 1.3 + tall, 0.08, turned=lean)
        parts += [
            (ellipsoid(0.13, tall, 0.1).at(side, 1.3 + tall, 0.02, turned=lean), coat),
            (inner, t.second),
            (ellipsoid(0.15, 0.12, 0.25).at(s * 0.22, 0.12, 0.35), t.second),
            (capsule((s * 0.2, 0.75, 0.28), (s * 0.15, 0.5, 0.42), 0.11), coat),
        ]
    return parts


def teddy(t: Traits) -> list[Part]:
    """Build a sitting teddy bear with a bow."""
    main, second, head, x, ear = t.main, t.second, t.head, t.tilt * 0.1, 0.17 * t.ear
    belly = marked(
        t, "belly", lambda q: (q[2] > 0.1) & (q[0] ** 2 + (q[1] - 0.6) ** 2 < 0.11), main
    )
    parts: list[Part] = [
        (ellipsoid(0.46 * t.fat, 0.5, 0.4).at(0, 0.62, 0), belly),
        (ellipsoid(0.42 * head, 0.38 * head, 0.36 * head).at(x, 1.4, 0.05), main),
        (ellipsoid(0.2, 0.16, 0.15).at(x, 1.3, 0.36 * head), second),
        (ellipsoid(0.08, 0.06, 0.05).at(x, 1.36, 0.36 * head + 0.13), DARK),
        (sphere(0.07).at(x * 0.5, 1.04, 0.4), t.bow),
        eyes(x, 1.5, 0.03 + 0.31 * head, 0.16 * head, 0.09),
    ]
    for s in (-1, 1):
        side, top = x + s * 0.33 * head, 1.4 + 0.31 * head
        foot = capsule((s * 0.25, 0.22, 0.12), (s * 0.34, 0.17, 0.55), 0.19, 0.17)
        hand = (s * 0.62, 0.62 + 0.25 * t.arm, 0.3)
        parts += [
            (ellipsoid(ear, ear, 0.11).at(side, top, 0.02), main),
            (ellipsoid(ear * 0.6, ear * 0.6, 0.08).at(side, top, 0.09), second),
            (capsule((s * 0.36, 0.9, 0.08), hand, 0.15), main),
            (foot, where(lambda q: q[2] > 0.6, second, main)),
            (ellipsoid(0.15, 0.11, 0.09).at(x * 0.5 + s * 0.16, 1.04, 0.38), t.bow),
        ]
    return parts
