"""From where a model is seen, and in which light: drawn from a seed, its identity and a number."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FRONT = 70.0  # degrees to either side; three of four views are within
LOWEST, HIGHEST = 5.0, 35.0  # degrees of elevation


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        azimuth: Degrees, 0 from the front, positive from the model's left.
        elevation: Degrees above the horizon.
        light: Name of the panorama that lights it.
        turn: Degrees by which the panorama is turned.
    """

    azimuth: float
    elevation: float
    light: str
    turn: float


def view(seed: int, identity: str, number: int, lights: Sequence[str]) -> View:
    """Draw view ``number`` of a model; every fourth may be from any side."""
    rng = np.random.default_rng((seed, zlib.crc32(identity.encode()), number))
    around = 180.0 if number % 4 == 3 else FRONT
    return View(
        azimuth=round(float(rng.uniform(-around, around)), 1),
        elevation=round(float(rng.uniform(LOWEST, HIGHEST)), 1),
        light=str(lights[rng.integers(len(lights))]),
        turn=round(float(rng.uniform(0, 360)), 1),
    )
