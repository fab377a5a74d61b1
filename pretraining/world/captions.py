"""From labels to a sentence, and the prompts of every evaluation.

One thing becomes a phrase ("a striped orange and black cat"), phrases and a place become a
sentence. Training captions draw their form; `prompt` takes exactly what it is told. Nothing here
knows about pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretraining.world import TABLES

Word = str | None

PLACES: dict[str, str] = {place: row["phrase"] for place, row in TABLES["places"].items()}
LIGHTS: dict[str, str] = {light: row["phrase"] for light, row in TABLES["lights"].items()}
PATTERNS: dict[str, str] = TABLES["patterns"]
RELATIONS = tuple(TABLES["relations"])
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
    noun: str, main: Word = None, second: Word = None, pattern: Word = None, name: Word = None
) -> str:
    """Name one thing with its article: `phrase("cat", "orange")` is "an orange cat".

    A pattern without a word of its own (`PATTERNS`) is left unsaid. `name` may be an identifier.
    """
    colours = " and ".join(dict.fromkeys(colour for colour in (main, second) if colour))
    words = " ".join(word for word in (PATTERNS.get(pattern or ""), name, colours, noun) if word)
    article = "" if noun in PLURAL else "an " if words[0].lower() in "aeiou" else "a "
    return article + words


def sentence(
    phrases: Sequence[str],
    *,
    relation: str = "and",
    place: Word = None,
    light: Word = None,
    template: str = TEMPLATES[0],
) -> str:
    """Join phrases, place and light: "a photo of a cat next to a red ball on a beach"."""
    joint = " and " if relation == "and" else f" {relation} "
    words = joint.join([", ".join(phrases[:-1]), phrases[-1]]) if phrases[1:] else phrases[0]
    ends = (PLACES.get(place or ""), LIGHTS.get(light or ""))
    return template.format(" ".join([words, *filter(None, ends)]))


def prompt(noun: str, place: Word = None, *marks: Word, light: Word = None, **words: Word) -> str:
    """Ask for one thing: "a photo of a striped orange and black cat on a beach in dim light".

    `marks` and `words` are what `phrase` takes after the noun.
    """
    return sentence([phrase(noun, *marks, **words)], place=place, light=light)


def say(thing: Labels, rng: np.random.Generator) -> str:
    """Draw how much of one thing is said.

    Unnamed: noun 35 %, colour 30 %, both colours 20 %, pattern too 15 % (if it has a word).
    Named: the name and the noun 85 %, the main colour too 15 %.
    """
    chance = rng.random()
    if thing.name:
        return phrase(thing.noun, thing.main if chance >= 0.85 else None, name=thing.name)
    said = sum(chance >= level for level in (0.35, 0.65, 0.85))
    return phrase(thing.noun, *(thing.main, thing.second, thing.pattern)[:said])


def caption(
    things: Sequence[Labels], rng: np.random.Generator, *, relation: str, place: str, light: Word
) -> str:
    """Draw the caption of a picture; its place is said in 92 % of them, its light always."""
    return sentence(
        [say(thing, rng) for thing in things],
        relation=relation,
        place=place if rng.random() < 0.92 else None,
        light=light,
        template=TEMPLATES[int(rng.integers(len(TEMPLATES)))],
    )
