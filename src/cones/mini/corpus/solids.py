"""Solids of our own where the libraries are thin: turned and rounded things, as meshes.

Dolls, trains, sunglasses and guitars have no other model that training may see. No two of a noun
are alike: measures and colours come from a seed. CC0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cones.mini.corpus.recolour import COLOURS
from cones.mini.corpus.shapes import Colour, Piece, box, ellipsoid, turned

WOOD = ((0.45, 0.28, 0.14), (0.58, 0.38, 0.2), (0.36, 0.22, 0.12))
CLAY = ((0.68, 0.38, 0.24), (0.75, 0.56, 0.4), (0.5, 0.3, 0.22), (0.85, 0.8, 0.72))
FUR = ((0.55, 0.36, 0.2), (0.75, 0.58, 0.38), (0.35, 0.24, 0.18), (0.85, 0.82, 0.78))


@dataclass(frozen=True)
class Solid:
    """One thing of our own making."""

    noun: str
    name: str
    colour: str | None
    pieces: tuple[Piece, ...]

    @property
    def size_cm(self) -> tuple[float, float, float]:
        """Give width, depth and height."""
        corners = np.concatenate([piece.corners for piece in self.pieces])
        width, height, depth = np.ptp(corners, axis=0)
        return tuple(round(float(side), 1) for side in (width, depth, height))


def _pick(rng: np.random.Generator, options: Sequence[Colour]) -> Colour:
    """Choose a colour and shift it a little."""
    chosen = np.array(options[rng.integers(len(options))])
    return tuple(np.clip(chosen * (0.85 + 0.3 * rng.random()), 0, 1).tolist())


def _named(rng: np.random.Generator) -> tuple[str, Colour]:
    name = str(rng.choice(list(COLOURS)))
    return name, COLOURS[name]


def jar(rng: np.random.Generator) -> Solid:
    """A bellied jar with a neck, sometimes with a lid."""
    high, wide, neck = 22 + 12 * rng.random(), 8 + 4 * rng.random(), 4 + 3 * rng.random()
    profile = [(0, 0), (0.6 * wide, 0), (0.95 * wide, 0.3 * high), (wide, 0.5 * high)]
    profile += [(0.85 * wide, 0.75 * high), (neck, 0.88 * high), (1.15 * neck, high)]
    profile += [(0.95 * neck, high), (0.85 * neck, 0.85 * high), (0, 0.8 * high)]
    pieces = [turned(profile, _pick(rng, CLAY))]
    if rng.random() < 0.4:
        pieces.append(ellipsoid((0, high, 0), (1.1 * neck, 1.5, 1.1 * neck), _pick(rng, WOOD)))
    return Solid("jar", "clay jar", None, tuple(pieces))


def barrel(rng: np.random.Generator) -> Solid:
    """A barrel of staves with iron hoops."""
    high, end, belly = 70 + 30 * rng.random(), 24 + 6 * rng.random(), 31 + 6 * rng.random()
    steps = np.linspace(-1, 1, 13)
    radii = belly - (belly - end) * steps**2
    profile = [(0, 0), *zip(radii, (steps + 1) * high / 2, strict=True), (0, high)]
    hoops = []
    for at in (-0.8, -0.45, 0.45, 0.8):
        radius, y = belly - (belly - end) * at**2 + 0.8, (at + 1) * high / 2
        hoops.append(turned([(radius, y - 2), (radius, y + 2)], (0.22, 0.21, 0.2)))
    return Solid("barrel", "wooden barrel", None, (turned(profile, _pick(rng, WOOD)), *hoops))


def cup(rng: np.random.Generator) -> Solid:
    """A cup with a handle of little balls."""
    name, colour = _named(rng)
    high, wide = 8 + 4 * rng.random(), 3.5 + 1.5 * rng.random()
    profile = [
        (0, 0),
        (0.8 * wide, 0),
        (wide, high),
        (0.9 * wide, high),
        (0.7 * wide, 0.6),
        (0, 0.6),
    ]
    turns = np.linspace(-np.pi / 2, np.pi / 2, 15)
    handle = [
        ellipsoid(
            (0.9 * wide + 2.4 * np.cos(turn), high / 2 + 0.32 * high * np.sin(turn), 0),
            (0.6, 0.6, 0.6),
            colour,
        )
        for turn in turns
    ]
    return Solid("cup", f"{name} cup", name, (turned(profile, colour), *handle))


def hat(rng: np.random.Generator) -> Solid:
    """A hat with a brim and a band."""
    name, colour = _named(rng)
    brim, crown, high = 15 + 5 * rng.random(), 8 + 2 * rng.random(), 9 + 7 * rng.random()
    profile = [(0, 0), (brim, 0), (brim, 0.8), (crown, 1), (0.95 * crown, 0.8 * high)]
    profile += [(0.7 * crown, high), (0, high)]
    band = turned([(crown + 0.3, 1), (crown + 0.25, 3.2)], _pick(rng, ((0.1, 0.1, 0.1), *WOOD)))
    return Solid("hat", f"{name} hat", name, (turned(profile, colour), band))


def ball(rng: np.random.Generator) -> Solid:
    """A ball with a belt of another colour."""
    name, colour = _named(rng)
    radius, wide = 8 + 5 * rng.random(), 0.15 + 0.25 * rng.random()
    turns = np.linspace(-wide, wide, 9)
    belt = [(1.01 * radius * np.cos(t), radius + 1.01 * radius * np.sin(t)) for t in turns]
    other = _named(rng)[1]
    pieces = (ellipsoid((0, radius, 0), [radius] * 3, colour), turned(belt, other))
    return Solid("ball", f"{name} ball", name, pieces)


def teddy(rng: np.random.Generator) -> Solid:
    """A sitting teddy bear of ellipsoids."""
    fur, light = _pick(rng, FUR), _pick(rng, ((0.85, 0.72, 0.55), (0.9, 0.85, 0.78)))
    fat, head = 0.85 + 0.4 * rng.random(), 0.9 + 0.25 * rng.random()
    top = 17 + 6 * head
    pieces = [ellipsoid((0, 10, 0), (8 * fat, 10, 7 * fat), fur)]
    pieces += [ellipsoid((0, top, 0), (6.8 * head, 6.2 * head, 6 * head), fur)]
    pieces += [ellipsoid((0, top - 1.5, 5 * head), (3 * head, 2.4 * head, 2.4 * head), light)]
    pieces += [ellipsoid((0, top - 0.8, 7.2 * head), (1, 0.8, 0.8), (0.06, 0.05, 0.05))]
    pieces += [ellipsoid((0, 10, 4.2 * fat), (5 * fat, 6.5, 3.5 * fat), light)]
    for side in (-1, 1):
        pieces.append(ellipsoid((side * 5.2 * head, top + 5.2 * head, 0), (2.4, 2.4, 1.4), fur))
        pieces.append(ellipsoid((side * 2.4, top + 1.4, 5.4 * head), (0.8,) * 3, (0.05,) * 3))
        pieces.append(ellipsoid((side * 8.5 * fat, 12.5, 2), (2.6, 5.4, 2.8), fur))
        pieces.append(ellipsoid((side * 5.5 * fat, 3, 7), (3.2, 3.2, 6), fur))
    return Solid("teddy bear", "teddy bear", None, tuple(pieces))


def rabbit(rng: np.random.Generator) -> Solid:
    """A sitting toy rabbit with long ears."""
    fur = _pick(rng, (*FUR, (0.6, 0.58, 0.56)))
    ear, lean = 6 + 3 * rng.random(), 0.5 + rng.random()
    pieces = [
        ellipsoid((0, 7, -2), (6, 7, 7.5), fur),
        ellipsoid((0, 15.5, 4), (4.4, 4.2, 4.6), fur),
    ]
    pieces += [ellipsoid((0, 14.8, 8.4), (0.7, 0.5, 0.5), (0.8, 0.45, 0.45))]
    pieces += [ellipsoid((0, 5, -9.2), (2.4, 2.4, 2.4), (0.93, 0.92, 0.9))]
    for side in (-1, 1):
        pieces.append(ellipsoid((side * (1 + lean), 18 + ear, 3), (1.5, ear, 0.9), fur))
        pieces.append(ellipsoid((side * 2.6, 16.5, 7.2), (0.7, 0.8, 0.7), (0.07, 0.05, 0.05)))
        pieces.append(ellipsoid((side * 3.2, 1.8, 4.5), (1.9, 1.8, 3.4), fur))
    return Solid("rabbit", "toy rabbit", None, tuple(pieces))


def sunglasses(rng: np.random.Generator) -> Solid:
    """Sunglasses: two dark lenses in a frame, with temples."""
    name, frame = _named(rng)
    lens = _pick(rng, ((0.08, 0.08, 0.1), (0.2, 0.13, 0.08), (0.1, 0.16, 0.22)))
    wide, high = 2.9 + 0.7 * rng.random(), 2.1 + 1 * rng.random()
    pieces = [box((0, 3.6, 0), (1.8, 0.5, 0.5), frame)]
    for side in (-1, 1):
        centre = side * (wide + 0.8)
        pieces.append(ellipsoid((centre, 3, -0.1), (wide + 0.45, high + 0.45, 0.3), frame))
        pieces.append(ellipsoid((centre, 3, 0.2), (wide, high, 0.3), lens))
        pieces.append(box((side * (2 * wide + 1.2), 3.6, -6), (0.4, 0.6, 12), frame))
    return Solid("sunglasses", f"{name} sunglasses", name, tuple(pieces))


def guitar(rng: np.random.Generator) -> Solid:
    """An acoustic guitar, upright: two bouts, a sound hole, a neck and a head."""
    named = rng.random() < 0.4
    name, colour = _named(rng) if named else (None, _pick(rng, ((0.72, 0.46, 0.2), *WOOD)))
    wide = 17 + 4 * rng.random()
    dark = (0.2, 0.12, 0.07)
    pieces = [ellipsoid((0, 20, 0), (wide, 20, 4.5), colour)]
    pieces += [ellipsoid((0, 42, 0), (0.75 * wide, 15, 4.4), colour)]
    pieces += [
        ellipsoid((0, 36, 4), (5, 5, 0.9), (0.05, 0.04, 0.03)),
        box((0, 16, 4.6), (10, 1.6, 1), dark),
    ]
    pieces += [box((0, 70, 3.6), (5, 50, 2), dark), box((0, 99, 3.2), (7, 12, 1.8), colour)]
    words = f"{name} acoustic guitar" if name else "acoustic guitar"
    return Solid("guitar", words, name, tuple(pieces))


def doll(rng: np.random.Generator) -> Solid:
    """A doll in a dress, with hair, arms and shoes."""
    name, dress = _named(rng)
    skin = _pick(rng, ((0.93, 0.76, 0.64), (0.78, 0.57, 0.43), (0.5, 0.34, 0.24)))
    hair = _pick(rng, ((0.2, 0.13, 0.08), (0.8, 0.62, 0.25), (0.55, 0.25, 0.1), (0.1, 0.09, 0.09)))
    wide, head = 7 + 4 * rng.random(), 4.2 + rng.random()
    top = 30 + head
    pieces = [turned([(0, 6), (wide, 6), (3.2, 22), (3.4, 27), (1.5, 29), (0, 29)], dress)]
    pieces += [ellipsoid((0, top, 0), (head, 1.1 * head, head), skin)]
    pieces += [ellipsoid((0, top + 0.9, -0.9), (1.1 * head, 1.12 * head, head), hair)]
    for side in (-1, 1):
        pieces.append(
            ellipsoid((side * 0.4 * head, top, 0.9 * head), (0.5, 0.6, 0.4), (0.1, 0.1, 0.15))
        )
        pieces.append(ellipsoid((side * 5, 22, 1), (1.3, 5.2, 1.3), skin))
        pieces.append(ellipsoid((side * 2.2, 3.5, 0), (1.4, 3.6, 1.4), skin))
        pieces.append(
            ellipsoid((side * 2.2, 0.9, 1), (1.5, 0.9, 2.4), _pick(rng, ((0.1, 0.1, 0.1), dress)))
        )
    return Solid("doll", f"doll in a {name} dress", None, tuple(pieces))


def train(rng: np.random.Generator) -> Solid:
    """A toy engine with a boiler, a cab, a chimney and wheels, its front to the left."""
    (name, body), (_, roof), (_, wheel) = _named(rng), _named(rng), _named(rng)
    long, thick = 9 + 4 * rng.random(), 3.2 + 0.8 * rng.random()
    deck, front = 4.2, -4 - long / 2
    pieces = [box((0, deck, 0), (long + 11, 1.4, 7), _pick(rng, WOOD))]
    pieces += [ellipsoid((-3, deck + thick, 0), (0.6 * long, thick, thick), body)]
    pieces += [box((0.4 * long + 2, deck + 4.5, 0), (5.5, 9, 6.4), body)]
    pieces += [box((0.4 * long + 2, deck + 9.4, 0), (7.5, 1, 7.6), roof)]
    chimney = turned([(0.9, 0), (0.9, 4), (1.7, 5.4), (0, 5.4)], roof)
    moved = chimney.corners + (front + 3, deck + 1.5 * thick, 0)
    pieces += [Piece(moved, chimney.triangles, roof)]
    for side in (-1, 1):
        for place in (-0.32, 0, 0.32):
            centre = (place * (long + 11), 2.4, side * 3.6)
            pieces.append(ellipsoid(centre, (2.4, 2.4, 0.6), wheel))
    return Solid("train", f"{name} toy train", name, tuple(pieces))


MAKERS: dict[str, Callable[[np.random.Generator], Solid]] = {
    maker.__name__: maker
    for maker in (ball, barrel, cup, doll, guitar, hat, jar, rabbit, sunglasses, teddy, train)
}
COUNTS = {
    "doll": 16,
    "train": 16,
    "teddy": 16,
    "sunglasses": 14,
    "hat": 10,
    "guitar": 10,
    "jar": 10,
    "rabbit": 10,
}


def solids(seed: int) -> dict[str, Solid]:
    """Make all solids by their identities, ``procedural#jar3``: eight of a kind, or more."""
    return {
        f"procedural#{kind}{number}": maker(np.random.default_rng((seed, place, number)))
        for place, (kind, maker) in enumerate(MAKERS.items())
        for number in range(COUNTS.get(kind, 8))
    }


def obj_text(solid: Solid) -> tuple[str, str]:
    """Write a solid as the texts of an OBJ file and of its ``solid.mtl``."""
    lines, materials, before = ["mtllib solid.mtl"], [], 1
    for number, piece in enumerate(solid.pieces):
        red, green, blue = piece.colour
        materials.append(f"newmtl piece{number}\nKd {red:.4f} {green:.4f} {blue:.4f}\n")
        lines += [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in piece.corners]
        lines += [f"usemtl piece{number}"]
        lines += ["f " + " ".join(str(before + k) for k in corner) for corner in piece.triangles]
        before += len(piece.corners)
    return "\n".join(lines) + "\n", "".join(materials)
