"""What the built-in model knows: its nouns, places, styles, and how they are said.

One picture is described by a :class:`Scene`; :func:`caption` puts a scene into words. The
words are few on purpose: a small model draws few things well or many things badly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cones.backbones.identifier import RARE_WORDS

# Noun of the corpus -> other words for the same thing. Every subject's noun is among them.
NOUNS = {
    "ball": (),
    "barrel": ("wooden barrel",),
    "car": ("automobile",),
    "cat": ("kitten",),
    "chair": ("seat",),
    "cup": ("mug",),
    "dog": ("puppy",),
    "doll": (),
    "flower": ("flowers", "tulips"),
    "guitar": (),
    "hat": (),
    "jar": ("jug",),
    "rabbit": ("bunny",),
    "shoe": ("shoes", "sneakers"),
    "sofa": ("couch",),
    "sunglasses": ("glasses",),
    "teapot": ("kettle",),
    "teddy bear": ("teddy",),
    "train": ("toy train",),
    "woman": ("lady",),
}
# Synonyms true of one finer name only: the word is used where the catalogue's name holds it.
ONLY_WHEN_NAMED = {"wooden barrel", "tulips", "sneakers", "toy train", "kettle"}

PLACES = {
    "beach": "on a beach",
    "desert": "in a desert",
    "grass": "on the grass",
    "lake": "by a lake",
    "lobby": "in a lobby",
    "meadow": "in a meadow",
    "night": "at night",
    "park": "in a park",
    "plain": "on a plain background",
    "road": "on a road",
    "room": "in a room",
    "seaside": "at the seaside",
    "snow": "in the snow",
    "square": "in a city square",
    "street": "in a street",
    "wooden floor": "on a wooden floor",
}
# How two things stand, between their names; the first may also stand in a list ("and").
NEXT_TO, AND, ON = "next to", "and", "on"
LEFT_OF, RIGHT_OF = "to the left of", "to the right of"
IN_FRONT_OF, BEHIND = "in front of", "behind"
# Words for the light -> gains of red, green and blue.
LIGHTS = {
    "in bright light": (1.3, 1.3, 1.25),
    "in dim light": (0.5, 0.5, 0.55),
    "at sunset": (1.2, 0.85, 0.6),
}
# Things with a flat top -> its height in shares of theirs; others say it in the corpus.
FLAT_TOPS = {"barrel": 0.93}
HELD_OUT_EVERY = 10  # one pair of ten is never shown together


def held_out(noun: str, other: str) -> bool:
    """Tell whether a noun and another noun or a place are never together in a training picture.

    They are kept for measuring whether the model puts together what it never saw together.
    Every noun misses one or two places and one or two nouns.
    """
    nouns, places = list(NOUNS), list(PLACES)
    if other in PLACES:
        return (3 * nouns.index(noun) + 7 * places.index(other)) % HELD_OUT_EVERY == 0
    return (nouns.index(noun) + nouns.index(other)) % HELD_OUT_EVERY == 0


# RARE_WORDS are strewn before a noun now and then, as nonsense occurs in any scraped corpus: the
# model learns to ignore them, and one of them lends its embedding to a new identifier V*.
RARE_RATE = 0.03
NO_PLURAL_ARTICLE = ("flowers", "tulips", "shoes", "sneakers", "sunglasses", "glasses")

PHOTO_PREFIXES = ("a photo of {}", "a picture of {}", "{}", "{}", "a photograph of {}")
EMOJI_PREFIXES = ("an emoji of {}", "a drawing of {}", "a cartoon of {}", "a sticker of {}")


@dataclass(frozen=True)
class Thing:
    """One object of a scene: its noun, the catalogue's finer name, its colour word or None."""

    noun: str
    name: str
    colour: str | None


@dataclass(frozen=True)
class Scene:
    """What a picture shows: things as they are named, how they stand, where, style and light."""

    things: tuple[Thing, ...]
    relation: str
    place: str
    drawn: bool
    light: str | None = None


def with_article(noun: str, words: Sequence[str] | None = None) -> str:
    """Put the article, if ``noun`` takes one, before ``words`` (by default the noun itself)."""
    words = words or [noun]
    if noun in NO_PLURAL_ARTICLE:
        return " ".join(words)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def phrase(thing: Thing, rng: np.random.Generator) -> str:
    """Name one thing with its article, sometimes its colour, sometimes a synonym."""
    others = [w for w in NOUNS[thing.noun] if w not in ONLY_WHEN_NAMED or w in thing.name]
    noun = str(rng.choice(others)) if others and rng.random() < 0.2 else thing.noun
    words = [noun]
    if thing.colour and rng.random() < 0.8:
        words.insert(0, thing.colour)
    if rng.random() < RARE_RATE:
        words.insert(0, str(rng.choice(RARE_WORDS)))
    return with_article(noun, words)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in one of several ways; about one in five omits the place."""
    phrases = [phrase(thing, rng) for thing in scene.things]
    if len(phrases) == 2 and scene.relation:
        body = f"{phrases[0]} {scene.relation} {phrases[1]}"
    else:
        body = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    if rng.random() < 0.8:
        body = f"{body} {PLACES[scene.place]}"
    if scene.light:
        body = f"{body} {scene.light}"
    styles = EMOJI_PREFIXES if scene.drawn and rng.random() < 0.8 else PHOTO_PREFIXES
    prefixes = ("{}",) if scene.drawn and styles is PHOTO_PREFIXES else styles
    return str(rng.choice(prefixes)).format(body)
