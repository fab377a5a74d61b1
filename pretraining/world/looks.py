"""Looks: one individual of a noun, drawn from a number, a name or the list of subjects.

Same number and seed: same look, bit for bit. Random and named looks keep clear of the subjects:
never the same main colour, second colour and pattern, and never nearer than `CLEARANCE`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pretraining.world.render import render
from pretraining.world.toys import NOUNS

NAMED = 96
CLEARANCE = 0.2
_NAMES_SEED, _NAMED_SEED = 7, 50_000
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Look:
    """One individual; `parameters` build its parts, the words are what captions may say."""

    noun: str
    parameters: Mapping[str, Any]
    main: str
    second: str
    pattern: str
    kind: str
    name: str | None


@dataclass(frozen=True)
class View:
    """One cut-out picture of a look, and the angles it was taken from in degrees."""

    rgba: UInt8[np.ndarray, "h w 4"]
    yaw: float
    pitch: float


@dataclass(frozen=True)
class Subject:
    """An individual with unmistakable markings; `tuning` ones may be used to set choices."""

    noun: str
    main: str
    second: str
    pattern: str
    kind: str
    seed: int
    tuning: bool = False


SUBJECTS: dict[str, Subject] = {
    "striped_cat": Subject("cat", "orange", "black", "stripes", "plain", 1, tuning=True),
    "zigzag_jar": Subject("jar", "yellow", "blue", "zigzag", "two handles", 2, tuning=True),
    "red_car": Subject("car", "red", "white", "plain", "beetle", 3, tuning=True),
    "witch_hat": Subject("hat", "purple", "yellow", "plain", "cone", 4, tuning=True),
    "belly_bear": Subject("teddy bear", "blue", "white", "belly", "plain", 5, tuning=True),
    "dotted_cup": Subject("cup", "red", "white", "dots", "plain", 6, tuning=True),
    "tuxedo_cat": Subject("cat", "black", "white", "tuxedo", "plain", 7),
    "saddle_dog": Subject("dog", "cream", "brown", "saddle", "floppy", 8),
    "patched_rabbit": Subject("rabbit", "white", "black", "patches", "plain", 9),
    "dotted_teapot": Subject("teapot", "turquoise", "red", "dots", "plain", 10),
    "striped_jar": Subject("jar", "white", "red", "stripes", "plain", 11),
    "blue_barrel": Subject("barrel", "blue", "yellow", "plain", "three hoops", 12),
    "panel_ball": Subject("ball", "yellow", "purple", "panels", "plain", 13),
    "round_chair": Subject("chair", "green", "orange", "plain", "round", 14),
    "yellow_sunglasses": Subject("sunglasses", "yellow", "purple", "plain", "round", 15),
    "daisy": Subject("flower", "pink", "yellow", "plain", "daisy", 16),
    "bun_woman": Subject("woman", "yellow", "blue", "plain", "bun", 17),
    "striped_lamp": Subject("lamp", "red", "white", "stripes", "cone", 18),
}


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
    s = SUBJECTS[key]
    words = {"main": s.main, "second": s.second, "pattern": s.pattern, "kind": s.kind}
    return _look(s.noun, NOUNS[s.noun].draw(np.random.default_rng(s.seed), fixed=words))


def distance(a: Look, b: Look) -> float:
    """Return the root mean square parameter difference, each in units of its range.

    Colours differ by their distance in rgb over the cube's diagonal, words by 0 or 1. Infinite
    across nouns.
    """
    if a.noun != b.noun:
        return math.inf
    numbers = NOUNS[a.noun].numbers
    gaps = []
    for name, x in a.parameters.items():
        y = b.parameters[name]
        if isinstance(x, str):
            gaps.append(float(x != y))
        elif isinstance(x, tuple):
            gaps.append(math.dist(x[1], y[1]) / math.sqrt(3))
        else:
            low, high = numbers[name]
            gaps.append(abs(x - y) / (high - low))
    return math.sqrt(sum(gap * gap for gap in gaps) / len(gaps))


def photograph(look: Look, rng: np.random.Generator, *, size: int = 104) -> View:
    """Take a picture of a look in a random pose, from a random side, in random light."""
    toy = NOUNS[look.noun]
    pose = {
        "tilt": rng.uniform(-1, 1),
        "tail": rng.choice([-1, 1]) * rng.uniform(0.8, 1.1),
        "arm": rng.uniform(-0.5, 1),
    }
    yaw = float(rng.choice([-1, 1]) * rng.uniform(*toy.yaws))
    pitch = float(rng.uniform(8, 26))
    light = (rng.uniform(-0.9, 0.9), rng.uniform(0.6, 1), rng.uniform(0.5, 1))
    warmth = rng.uniform(-0.05, 0.05)
    rgba = render(
        toy.build(look.parameters, pose),
        yaw=yaw,
        pitch=pitch,
        light=light,
        size=size,
        tint=(1 + warmth, 1, 1 - warmth),
    )
    return View(rgba, yaw, pitch)


def _clear_look(noun: str, rng: np.random.Generator, name: str | None = None) -> Look:
    """Draw until the look keeps clear of every subject."""
    subjects = [subject_look(key) for key, subject in SUBJECTS.items() if subject.noun == noun]
    while True:
        look = _look(noun, NOUNS[noun].draw(rng), name)
        if all(_triple(look) != _triple(s) and distance(look, s) >= CLEARANCE for s in subjects):
            return look


def _look(noun: str, parameters: Mapping[str, Any], name: str | None = None) -> Look:
    words = {key: parameters[key][0] for key in ("main", "second")}
    return Look(
        noun,
        parameters,
        **words,
        pattern=parameters["pattern"],
        kind=parameters["kind"],
        name=name,
    )


def _triple(look: Look) -> tuple[str, str, str]:
    return look.main, look.second, look.pattern


@cache
def _names() -> list[str]:
    """Return distinct words of the form consonant, vowel, consonant, vowel, consonant."""
    rng = np.random.default_rng(_NAMES_SEED)
    names: dict[str, None] = {}
    while len(names) < NAMED:
        letters = [str(rng.choice(list(_CONSONANTS if i % 2 == 0 else _VOWELS))) for i in range(5)]
        names["".join(letters)] = None
    return list(names)
