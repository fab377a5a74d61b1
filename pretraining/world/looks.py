"""Looks: one individual of a noun, drawn from a number, a name or the list of subjects.

Same number and seed: same look, bit for bit. Random and named looks keep clear of the subjects:
never the same main colour, second colour and pattern, and never nearer than `CLEARANCE`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pretraining.world import TABLES
from pretraining.world.captions import Labels
from pretraining.world.colours import draw_colour
from pretraining.world.render import render
from pretraining.world.toys import NOUNS, build

NAMED = 96
CLEARANCE = 0.2
_NAMES_SEED, _NAMED_SEED = 7, 50_000


@dataclass(frozen=True)
class Look(Labels):
    """One individual; `parameters` build its parts."""

    parameters: Mapping[str, Any]


class View(NamedTuple):
    """One cut-out picture of a look, and the angles it was taken from in degrees."""

    rgba: UInt8[np.ndarray, "h w 4"]
    yaw: float
    pitch: float


_LISTED: dict[str, dict[str, list[str]]] = TABLES["subjects"]
TUNING = tuple(_LISTED["tuning"])
SUBJECTS = {key: Labels(*row, None) for rows in _LISTED.values() for key, row in rows.items()}


def draw_look(number: int, *, seed: int = 0) -> Look:
    """Draw the look of that number; its noun is the number's place among the sixteen."""
    return _clear_look(list(NOUNS)[number % len(NOUNS)], np.random.default_rng((seed, number)))


def named_look(index: int) -> Look:
    """Return one of the `NAMED` individuals that captions call by a made-up name."""
    noun = list(NOUNS)[index % len(NOUNS)]
    return _clear_look(noun, np.random.default_rng((_NAMED_SEED, index)), _names()[index])


@cache
def subject_look(key: str) -> Look:
    """Return a subject's look; it is the same in every picture of it."""
    rng = np.random.default_rng(1 + list(SUBJECTS).index(key))
    return draw(rng, **vars(SUBJECTS[key]))


def draw(rng: np.random.Generator, noun: str, name: str | None = None, **told: str) -> Look:
    """Draw an individual; `told` are the words of main, second, pattern or kind."""
    toy = NOUNS[noun] | told
    main = draw_colour(rng, toy["main"])
    second = draw_colour(rng, toy["second"], avoid=main[:1])
    pattern = told.get("pattern") or str(rng.choice(toy["patterns"]))
    kind = told.get("kind") or str(rng.choice(toy["kinds"]))
    parameters = {"main": main, "second": second, "pattern": pattern, "kind": kind}
    parameters |= {k: float(rng.uniform(*bounds)) for k, bounds in toy["numbers"].items()}
    parameters |= {k: draw_colour(rng, words) for k, words in toy["colours"].items()}
    return Look(noun, main[0], second[0], pattern, kind, name, parameters)


def distance(a: Look, b: Look) -> float:
    """Return the root mean square parameter difference, each in units of its range.

    Colours differ by their distance in rgb over the cube's diagonal, words by 0 or 1. Infinite
    across nouns.
    """
    if a.noun != b.noun:
        return math.inf

    def gap(name: str) -> float:
        x, y = a.parameters[name], b.parameters[name]
        if isinstance(x, str):
            return float(x != y)
        if isinstance(x, tuple):
            return math.dist(x[1], y[1]) / math.sqrt(3)
        low, high = NOUNS[a.noun]["numbers"][name]
        return (x - y) / (high - low)

    return math.hypot(*map(gap, a.parameters)) / math.sqrt(len(a.parameters))


def photograph(look: Look, rng: np.random.Generator, *, size: int = 104) -> View:
    """Take a picture of a look in a random pose, from a random side, in random light."""
    pose = {
        "tilt": rng.uniform(-1, 1),
        "tail": rng.choice([-1, 1]) * rng.uniform(0.8, 1.1),
        "arm": rng.uniform(-0.5, 1),
    }
    yaws = NOUNS[look.noun]["yaws"]
    yaw, pitch = float(rng.choice([-1, 1]) * rng.uniform(*yaws)), float(rng.uniform(8, 26))
    light = (rng.uniform(-0.9, 0.9), rng.uniform(0.6, 1), rng.uniform(0.5, 1))
    warmth = rng.uniform(-0.05, 0.05)
    tint, parts = (1 + warmth, 1, 1 - warmth), build(look.noun, look.parameters, pose)
    rgba = render(parts, yaw=yaw, pitch=pitch, light=light, size=size, tint=tint)
    return View(rgba, yaw, pitch)


def _clear_look(noun: str, rng: np.random.Generator, name: str | None = None) -> Look:
    """Draw until the look keeps clear of every subject."""
    subjects = [subject_look(key) for key, subject in SUBJECTS.items() if subject.noun == noun]
    while True:
        look = draw(rng, noun, name)
        if all(_marks(look) != _marks(s) and distance(look, s) >= CLEARANCE for s in subjects):
            return look


def _marks(look: Look) -> tuple[str, str, str]:
    return look.main, look.second, look.pattern


@cache
def _names() -> list[str]:
    """Return distinct words of the form consonant, vowel, consonant, vowel, consonant."""
    rng, kinds = np.random.default_rng(_NAMES_SEED), [list("bdfgklmnprstvz"), list("aeiou")]
    names: dict[str, None] = {}
    while len(names) < NAMED:
        names["".join(str(rng.choice(kinds[i % 2])) for i in range(5))] = None
    return list(names)
