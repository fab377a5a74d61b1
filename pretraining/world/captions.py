"""From labels to a sentence, and the prompts of every evaluation.

One thing becomes a phrase ("a striped orange and black cat"), phrases and a place become a
sentence. Training captions draw their form; `prompt` takes exactly what it is told. Nothing here
knows about pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PLACES = {
    "beach": "on a beach",
    "desert": "in a desert",
    "grass": "on the grass",
    "lake": "by a lake",
    "night": "at night",
    "plain": "on a plain background",
    "road": "on a road",
    "room": "in a room",
    "snow": "in the snow",
    "wooden floor": "on a wooden floor",
}
LIGHTS = {"bright": "in bright light", "dim": "in dim light", "sunset": "at sunset"}
PATTERNS = {
    "stripes": "striped",
    "dots": "dotted",
    "zigzag": "zigzag",
    "band": "banded",
    "panels": "panelled",
    "patches": "patched",
    "tuxedo": "tuxedo",
}
RELATIONS = ("and", "next to", "to the left of", "to the right of", "in front of", "on")
TEMPLATES = ("a photo of {}", "a picture of {}", "{}", "{}")
PLURAL = ("sunglasses",)


@dataclass(frozen=True)
class Labels:
    """What is known of one thing; captions say some of it, never its `kind`."""

    noun: str
    main: str
    second: str
    pattern: str
    kind: str
    name: str | None


def phrase(
    noun: str,
    *,
    main: str | None = None,
    second: str | None = None,
    pattern: str | None = None,
    name: str | None = None,
) -> str:
    """Name one thing with its article: `phrase("cat", main="orange")` is "an orange cat".

    A pattern without a word of its own (`PATTERNS`) is left unsaid. `name` may be an identifier.
    """
    colours = " and ".join(dict.fromkeys(colour for colour in (main, second) if colour))
    words = " ".join(word for word in (PATTERNS.get(pattern or ""), name, colours, noun) if word)
    if noun in PLURAL:
        return words
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def sentence(
    phrases: Sequence[str],
    *,
    relation: str = "and",
    place: str | None = None,
    light: str | None = None,
    template: str = TEMPLATES[0],
) -> str:
    """Join phrases, place and light: "a photo of a cat next to a red ball on a beach"."""
    joint = " and " if relation == "and" else f" {relation} "
    words = joint.join([", ".join(phrases[:-1]), phrases[-1]]) if phrases[1:] else phrases[0]
    ends = (PLACES[place] if place else "", LIGHTS[light] if light else "")
    return template.format(" ".join([words, *(end for end in ends if end)]))


def prompt(
    noun: str,
    place: str | None = None,
    main: str | None = None,
    second: str | None = None,
    pattern: str | None = None,
    name: str | None = None,
    light: str | None = None,
) -> str:
    """Ask for one thing: "a photo of a striped orange and black cat on a beach in dim light"."""
    thing = phrase(noun, main=main, second=second, pattern=pattern, name=name)
    return sentence([thing], place=place, light=light)


def say(thing: Labels, rng: np.random.Generator) -> str:
    """Draw how much of one thing is said.

    Unnamed: noun 35 %, colour 30 %, both colours 20 %, pattern too 15 % (if it has a word).
    Named: the name and the noun 85 %, the main colour too 15 %.
    """
    chance = rng.random()
    if thing.name:
        main = thing.main if chance >= 0.85 else None
        return phrase(thing.noun, main=main, name=thing.name)
    return phrase(
        thing.noun,
        main=thing.main if chance >= 0.35 else None,
        second=thing.second if chance >= 0.65 else None,
        pattern=thing.pattern if chance >= 0.85 else None,
    )


def caption(
    things: Sequence[Labels],
    rng: np.random.Generator,
    *,
    relation: str,
    place: str,
    light: str | None,
) -> str:
    """Draw the caption of a picture; its place is said in 92 % of them, its light always."""
    return sentence(
        [say(thing, rng) for thing in things],
        relation=relation,
        place=place if rng.random() < 0.92 else None,
        light=light,
        template=TEMPLATES[int(rng.integers(len(TEMPLATES)))],
    )
