"""Woman: a doll in a top of the main colour and a skirt of the second."""

from collections.abc import Mapping

from pretraining.world.colours import DARK, Rgb, flat
from pretraining.world.render import Part
from pretraining.world.solids import box, capsule, ellipsoid, lathe, minus, sphere, union
from pretraining.world.toys.base import Parameters, Toy, eyes

_PALE, _DEEP = (0.98, 0.82, 0.7), (0.42, 0.27, 0.18)
LIPS: Rgb = (0.75, 0.25, 0.25)


def _woman(p: Parameters, pose: Mapping[str, float]) -> list[Part]:
    main, second, hair = (flat(p[name][1]) for name in ("main", "second", "hair"))
    t = p["skin"]
    skin = flat(tuple(a * (1 - t) + b * t for a, b in zip(_PALE, _DEEP, strict=True)))
    x, y, lift = pose["tilt"] * 0.06, 1.6, 0.36 * max(0.0, pose["arm"])
    cap = minus(
        ellipsoid((x, y + 0.05, -0.03), (0.34, 0.36, 0.33)),
        box((x, y - 0.17, 0.32), (0.26, 0.3, 0.26), 0.02),
    )
    skirt = lathe([(p["skirt"], 0.48), (0.72, 0.29), (0.9, 0.2)])
    parts: list[Part] = [
        (skirt, second),
        (ellipsoid((0, 1.0, 0), (0.29, 0.34, 0.21)), main),
        (ellipsoid((x, y, 0.03), (0.3, 0.32, 0.28)), skin),
        (ellipsoid((x, y - 0.15, 0.27), (0.08, 0.03, 0.05)), flat(LIPS)),
        eyes(x, y, 0.24, 0.12, 0.07),
    ]
    locks = {
        "long": ellipsoid((x, y - 0.3, -0.2), (0.36, 0.46, 0.15)),
        "bun": sphere((x, y + 0.42, -0.08), 0.18),
        "tails": union(
            *(ellipsoid((x + s * 0.42, y - 0.12, -0.05), (0.14, 0.28, 0.14)) for s in (-1, 1))
        ),
    }
    style = locks.get(p["kind"])
    parts.append((union(cap, style) if style else cap, hair))
    for s in (-1, 1):
        wrist = (s * 0.43, 0.82 + lift, 0.12)
        parts += [
            (capsule((s * 0.14, 0.75, 0), (s * 0.15, 0.12, 0), 0.12, 0.11), skin),
            (ellipsoid((s * 0.15, 0.09, 0.06), (0.12, 0.1, 0.18)), flat(DARK)),
            (capsule((s * 0.24, 1.18, 0), wrist, 0.1), main),
            (sphere((s * 0.45, 0.77 + lift, 0.14), 0.1), skin),
        ]
    return parts


WOMAN = Toy(
    _woman,
    kinds=("long", "short", "bun", "tails"),
    numbers={"skin": (0, 1), "skirt": (0.3, 0.5)},
    colours={"hair": ("black", "brown", "yellow", "orange", "gray", "red")},
)
