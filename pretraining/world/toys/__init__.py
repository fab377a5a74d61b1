"""The sixteen nouns, in the order of `world.toml`: what varies in each, and how it is built."""

from collections.abc import Mapping
from typing import Any

from pretraining.world import TABLES
from pretraining.world.colours import Traits
from pretraining.world.render import Part
from pretraining.world.toys import animals, things

NOUNS: dict[str, dict[str, Any]] = {k: TABLES["default"] | v for k, v in TABLES["nouns"].items()}
_BUILD = (
    *(animals.cat, animals.dog, animals.rabbit, animals.teddy),
    *(things.jar, things.teapot, things.cup, things.barrel, things.ball, things.car, things.chair),
    *(things.hat, things.sunglasses, things.flower, things.woman, things.lamp),
)


def build(noun: str, parameters: Mapping[str, Any], pose: Mapping[str, float]) -> list[Part]:
    """Build the parts of a look's parameters, in a pose (`tilt`, `tail`, `arm`, about -1 to 1)."""
    traits = {k: v[1] if isinstance(v, tuple) else v for k, v in parameters.items()}
    return _BUILD[list(NOUNS).index(noun)](Traits(**traits, **pose))
