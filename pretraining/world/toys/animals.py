"""Cat, dog, rabbit and teddy bear; muzzles, inner ears or feet always show the second colour."""

from collections.abc import Mapping

from pretraining.world.colours import DARK, Paint, Rgb, flat, patches, stripes, where
from pretraining.world.render import Part
from pretraining.world.solids import Triple, capsule, ellipsoid, sphere, torus, turn, union
from pretraining.world.toys.base import Parameters, Toy, eyes

COAT = ("orange", "brown", "black", "white", "gray", "cream")
PLUSH = ("brown", "cream", "pink", "blue", "white", "gray", "red", "green", "purple", "orange")
COLLAR = {"collar": ("red", "blue", "green", "yellow", "purple", "pink", "turquoise")}
NOSE: Rgb = (0.95, 0.6, 0.65)
BODY = {"fat": (0.9, 1.15), "head": (0.92, 1.12), "ear": (0.85, 1.2), "mark": (0, 1000)}


def _coat(p: Parameters, reach: Triple, bottom: float) -> Paint:
    """Return the paint of the whole coat: main, with stripes or patches of the second."""
    main, second = p["main"][1], p["second"][1]
    if p["pattern"] == "stripes":
        return where(stripes(0.24, p["mark"] / 1000, 0.45), second, main)
    if p["pattern"] == "patches":
        return where(patches(int(p["mark"]), reach, bottom, 0.28), second, main)
    return flat(main)


def _cat(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    fat, head, ear, tail, x = p["fat"], p["head"], p["ear"], pose["tail"], pose["tilt"] * 0.12
    second, pattern = p["second"][1], p["pattern"]
    coat = _coat(p, (0.38, 1.6, 0.38), 0.2)
    points = flat(second) if pattern == "points" else coat
    tips = flat(second) if pattern in ("points", "tuxedo") else coat
    chest = face = coat
    if pattern == "tuxedo":
        chest = where(lambda q: (q[2] > 0.08) & (q[0].abs() < 0.24), second, coat)
    if pattern == "points":
        face = where(
            lambda q: (q[2] > 0.15) & ((q[0] - x) ** 2 + (q[1] - 1.33) ** 2 < 0.06), second, coat
        )
    body = union(
        ellipsoid((0, 0.55, -0.05), (0.42 * fat, 0.52, 0.42 * fat)),
        ellipsoid((0, 0.85, 0.05), (0.28 * fat, 0.35, 0.28)),
        blend=0.15,
    )
    swing = union(
        capsule((0.2 * tail, 0.15, -0.35), (0.68 * tail, 0.18, -0.2), 0.1),
        capsule((0.68 * tail, 0.18, -0.2), (0.78 * tail, 0.7, -0.15), 0.1),
        blend=0.1,
    )
    parts: list[Part] = [
        (body, chest),
        (ellipsoid((x, 1.38, 0.08), (0.42 * head, 0.34 * head, 0.34 * head)), face),
        (ellipsoid((x, 1.27, 0.08 + 0.28 * head), (0.17, 0.11, 0.13)), flat(second)),
        (sphere((x, 1.33, 0.2 + 0.28 * head), 0.055), flat(NOSE)),
        (swing, where(lambda q: q[1] > 0.5, flat(second), points)),
        (torus((x * 0.5, 1.08, 0.06), 0.24, 0.07), flat(p["collar"][1])),
        eyes(x, 1.45, 0.06 + 0.27 * head, 0.18 * head, 0.1, p["iris"][1]),
    ]
    for s in (-1, 1):
        root, tip = (x + s * 0.22 * head, 1.38 + 0.2 * head), x + s * 0.34 * head
        top = 1.38 + (0.3 + 0.24 * ear) * head
        leg = union(
            capsule((s * 0.17, 0.75, 0.28), (s * 0.18, 0.1, 0.36), 0.11),
            ellipsoid((s * 0.18, 0.09, 0.44), (0.13, 0.1, 0.15)),
            blend=0.06,
        )
        parts += [
            (capsule((*root, 0.05), (tip, top, 0.02), 0.17, 0.035), points),
            (leg, where(lambda q: q[1] < 0.28, tips, coat)),
            (ellipsoid((s * 0.36 * fat, 0.2, 0.12), (0.2, 0.22, 0.32)), coat),
        ]
    return parts


def _dog(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    fat, head, tail, x = p["fat"], p["head"], pose["tail"] * 0.12, pose["tilt"] * 0.08
    second, pattern, reach = p["second"][1], p["pattern"], 0.8 + 0.28 * p["muzzle"]
    coat = _coat(p, (0.28, 1.2, 0.6), 0.4)
    back = where(lambda q: (q[1] > 0.8) & (q[2] < 0.3), second, coat)
    foot = where(lambda q: q[1] < 0.4, second, coat)
    body = union(
        capsule((0, 0.82, -0.42), (0, 0.86, 0.3), 0.26 * fat, 0.3 * fat),
        capsule((0, 0.95, 0.32), (x, 1.32, 0.5), 0.23, 0.2),
        blend=0.15,
    )
    snout = union(
        capsule((x, 1.35, 0.7), (x, 1.31, reach), 0.18, 0.14),
        ellipsoid((x, 1.3, 0.8), (0.19, 0.15, 0.2)),
        blend=0.08,
    )
    parts: list[Part] = [
        (body, back if pattern == "saddle" else coat),
        (ellipsoid((x, 1.47, 0.55), (0.31 * head, 0.3 * head, 0.32 * head)), coat),
        (snout, flat(second)),
        (sphere((x, 1.38, reach + 0.11), 0.09), flat(DARK)),
        (capsule((0, 0.95, -0.62), (tail, 1.5, -0.85), 0.11, 0.09), back),
        (torus((x * 0.7, 1.17, 0.42), 0.22, 0.075, turn("x", 25)), flat(p["collar"][1])),
        eyes(x, 1.57, 0.55 + 0.22 * head, 0.14 * head, 0.095),
    ]
    ears = flat(second) if pattern in ("patches", "saddle", "plain") else coat
    for s in (-1, 1):
        if p["kind"] == "floppy":
            flap = ellipsoid(
                (x + s * 0.32 * head, 1.4, 0.48), (0.1, 0.32 * p["ear"], 0.19), turn("z", s * 10)
            )
        else:
            root = (x + s * 0.18 * head, 1.6, 0.45)
            flap = capsule(root, (x + s * 0.25 * head, 1.75 + 0.2 * p["ear"], 0.4), 0.14, 0.05)
        parts.append((flap, ears))
        for z in (-0.5, 0.34):
            leg = union(
                capsule((s * 0.17 * fat, 0.75, z), (s * 0.18, 0.12, z), 0.14, 0.11),
                ellipsoid((s * 0.18, 0.09, z + 0.06), (0.13, 0.1, 0.17)),
                blend=0.06,
            )
            parts.append((leg, foot if pattern == "socks" else coat))
    return parts


def _rabbit(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    fat, head, x = p["fat"], p["head"], pose["tilt"] * 0.1
    second = p["second"][1]
    coat = _coat(p, (0.38, 1.5, 0.38), 0.1)
    belly = where(lambda q: (q[2] > 0.1) & (q[0].abs() < 0.27), second, coat)
    parts: list[Part] = [
        (
            ellipsoid((0, 0.5, -0.05), (0.44 * fat, 0.5, 0.42 * fat)),
            belly if p["pattern"] == "belly" else coat,
        ),
        (ellipsoid((x, 1.15, 0.1), (0.35 * head, 0.32 * head, 0.31 * head)), coat),
        (ellipsoid((x, 1.05, 0.1 + 0.25 * head), (0.16, 0.11, 0.11)), flat(second)),
        (sphere((x, 1.12, 0.21 + 0.25 * head), 0.055), flat(NOSE)),
        (sphere((0.15, 0.3, -0.45), 0.17), flat(second)),
        eyes(x, 1.23, 0.08 + 0.25 * head, 0.17 * head, 0.09),
    ]
    for s in (-1, 1):
        tall, lean = 0.42 * p["ear"], turn("z", -s * 9)
        middle = 1.3 + tall
        parts += [
            (ellipsoid((x + s * 0.18, middle, 0.02), (0.13, tall, 0.1), lean), coat),
            (
                ellipsoid((x + s * 0.18, middle, 0.08), (0.075, tall * 0.8, 0.07), lean),
                flat(second),
            ),
            (ellipsoid((s * 0.22, 0.12, 0.35), (0.15, 0.12, 0.25)), flat(second)),
            (capsule((s * 0.2, 0.75, 0.28), (s * 0.15, 0.5, 0.42), 0.11), coat),
        ]
    return parts


def _teddy(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, second = flat(p["main"][1]), flat(p["second"][1])
    head, x, ear = p["head"], pose["tilt"] * 0.1, 0.17 * p["ear"]
    belly = where(lambda q: (q[2] > 0.1) & (q[0] ** 2 + (q[1] - 0.6) ** 2 < 0.11), second, main)
    parts: list[Part] = [
        (
            ellipsoid((0, 0.62, 0), (0.46 * p["fat"], 0.5, 0.4)),
            belly if p["pattern"] == "belly" else main,
        ),
        (ellipsoid((x, 1.4, 0.05), (0.42 * head, 0.38 * head, 0.36 * head)), main),
        (ellipsoid((x, 1.3, 0.36 * head), (0.2, 0.16, 0.15)), second),
        (ellipsoid((x, 1.36, 0.36 * head + 0.13), (0.08, 0.06, 0.05)), flat(DARK)),
        (sphere((x * 0.5, 1.04, 0.4), 0.07), flat(p["bow"][1])),
        eyes(x, 1.5, 0.03 + 0.31 * head, 0.16 * head, 0.09),
    ]
    for s in (-1, 1):
        side = x + s * 0.33 * head
        foot = capsule((s * 0.25, 0.22, 0.12), (s * 0.34, 0.17, 0.55), 0.19, 0.17)
        hand = (s * 0.62, 0.62 + 0.25 * pose["arm"], 0.3)
        parts += [
            (ellipsoid((side, 1.4 + 0.31 * head, 0.02), (ear, ear, 0.11)), main),
            (ellipsoid((side, 1.4 + 0.31 * head, 0.09), (ear * 0.6, ear * 0.6, 0.08)), second),
            (capsule((s * 0.36, 0.9, 0.08), hand, 0.15), main),
            (foot, where(lambda q: q[2] > 0.6, second, main)),
            (ellipsoid((x * 0.5 + s * 0.16, 1.04, 0.38), (0.15, 0.11, 0.09)), flat(p["bow"][1])),
        ]
    return parts


CAT = Toy(
    _cat,
    main=COAT,
    second=COAT,
    patterns=("plain", "stripes", "patches", "tuxedo", "points"),
    numbers=BODY,
    colours=COLLAR | {"iris": ("green", "yellow", "turquoise")},
)
DOG = Toy(
    _dog,
    main=COAT,
    second=COAT,
    patterns=("plain", "patches", "saddle", "socks"),
    kinds=("floppy", "pointed"),
    numbers=BODY | {"muzzle": (0.8, 1.3)},
    colours=COLLAR,
    yaws=(30, 70),
)
RABBIT = Toy(_rabbit, main=COAT, second=COAT, patterns=("plain", "patches", "belly"), numbers=BODY)
TEDDY = Toy(
    _teddy,
    main=PLUSH,
    second=PLUSH,
    patterns=("plain", "belly"),
    numbers={name: BODY[name] for name in ("fat", "head", "ear")},
    colours={"bow": ("red", "blue", "green", "yellow", "purple", "pink")},
)
