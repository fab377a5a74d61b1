"""What a toy is: tables to draw its parameters from, and a function that builds its parts.

Every toy draws a main and a second colour, a pattern and a kind (the class of its shape); the
rest are numbers between bounds and further colours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretraining.world.colours import (
    DARK,
    WHITE,
    WORDS,
    Paint,
    Region,
    Rgb,
    dots,
    draw_colour,
    flat,
    panels,
    stripes,
    where,
    zigzag,
)
from pretraining.world.render import Part
from pretraining.world.solids import Number, Points, sphere, union, vector

# Numbers, words and (word, rgb) pairs by name; only a toy's own build function reads them.
Parameters = Mapping[str, Any]
Bounds = tuple[Number, Number]


@dataclass(frozen=True)
class Toy:
    """One noun: its parts, and what they may vary in.

    Attributes:
        build: parts from parameters and a pose (`tilt`, `tail` and `arm`, about -1 to 1).
        yaws: least and largest turn from the front in degrees, to either side.
    """

    build: Callable[[Parameters, Mapping[str, float]], list[Part]]
    main: tuple[str, ...] = WORDS
    second: tuple[str, ...] = WORDS
    patterns: tuple[str, ...] = ("plain",)
    kinds: tuple[str, ...] = ("plain",)
    numbers: Mapping[str, Bounds] = field(default_factory=dict)
    colours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    yaws: Bounds = (0, 40)

    def draw(
        self, rng: np.random.Generator, *, fixed: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Draw parameters; `fixed` sets the words of main, second, pattern or kind."""
        fixed = fixed or {}
        main = draw_colour(rng, [fixed["main"]] if "main" in fixed else self.main)
        seconds = [fixed["second"]] if "second" in fixed else self.second
        return {
            "main": main,
            "second": draw_colour(rng, seconds, avoid=(main[0],)),
            "pattern": fixed.get("pattern") or str(rng.choice(self.patterns)),
            "kind": fixed.get("kind") or str(rng.choice(self.kinds)),
            **{name: float(rng.uniform(*bounds)) for name, bounds in self.numbers.items()},
            **{name: draw_colour(rng, words) for name, words in self.colours.items()},
        }


def eyes(
    x: Number, y: Number, z: Number, apart: Number, radius: Number, iris: Rgb = WHITE
) -> Part:
    """Return two eyes with dark pupils, seen on any coat."""
    left, right = ((x + side * apart, y, z) for side in (-1, 1))
    balls = union(sphere(left, radius), sphere(right, radius))
    pupils = [vector((at[0], y, z + radius)) for at in (left, right)]

    def pupil(p: Points) -> Tensor:
        gaps = torch.stack([(p - centre).square().sum(0) for centre in pupils])
        return gaps.amin(0) < (0.66 * radius) ** 2

    return balls, where(pupil, DARK, iris)


# What `covered` reads, for the toys that use it.
COVER_NUMBERS: dict[str, Bounds] = {"count": (5, 9), "level": (0.42, 0.6), "phase": (0, 1)}
COVERS = ("plain", "band", "stripes", "dots", "zigzag", "panels")


def covered(parameters: Parameters, height: Number) -> Paint:
    """Return the paint of a round body of that height: main colour, patterned in the second."""
    count, level = int(parameters["count"]), parameters["level"] * height
    main, second = parameters["main"][1], parameters["second"][1]
    if parameters["pattern"] == "plain":
        return flat(main)
    regions: dict[str, Region] = {
        "band": lambda p: (p[1] - level).abs() < 0.17 * height,
        "stripes": stripes(height / 4, parameters["phase"], 0.5),
        "dots": dots(count, 0.095 * height, 0.28 * height, parameters["phase"]),
        "zigzag": zigzag(count, level, 0.11 * height, 0.08 * height),
        "panels": panels(count // 2 * 2, parameters["phase"]),
    }
    return where(regions[parameters["pattern"]], second, main)
