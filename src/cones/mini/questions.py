"""The prompts that the built-in model is examined with, none of them a caption's own words.

Of every kind one picture a prompt: single things at every place, in word orders that training has
and has not, in colours, two and three together, and pairs that were never shown together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from cones.mini.data import Corpus
from cones.mini.examiner import Shown
from cones.mini.world import NOUNS, PLACES, held_out, with_article

UNSEEN = ("{place}, a photo of {thing}", "{place}, {thing}")  # word orders of no caption
KNOWN = ("a photo of {thing} {place}", "a picture of {thing} {place}")
TWO, THREE = "a photo of {} next to {} {}", "a photo of {}, {} and {} {}"


@dataclass(frozen=True)
class Asked:
    """One prompt, what it names and the seed of its picture."""

    prompt: str
    shown: Shown
    seed: int


def single(
    templates: Sequence[str], places: Sequence[str], per_noun: int, seed: int
) -> list[Asked]:
    """Give ``per_noun`` prompts of every noun, over places and templates in turn."""
    found = []
    for number in range(per_noun * len(NOUNS)):
        noun = list(NOUNS)[number // per_noun]
        place = places[number % len(places)]
        said = templates[(number + number // len(places)) % len(templates)].format(
            thing=with_article(noun), place=PLACES[place]
        )
        found.append(Asked(said, Shown((noun,), place), seed + number))
    return found


def coloured(corpus: Corpus, places: Sequence[str], seed: int) -> list[Asked]:
    """Give one prompt of every noun in every colour word it was trained with."""
    found = []
    for noun, kinds in corpus.sprites.items():
        looks = [views[0].thing.colour for views in kinds.get(False, {}).values()]
        for colour in sorted({colour for colour in looks if colour}):
            place = places[len(found) % len(places)]
            thing = with_article(noun, [colour, noun])
            said = KNOWN[0].format(thing=thing, place=PLACES[place])
            found.append(Asked(said, Shown((noun,), place, colour), seed + len(found)))
    return found


def several(
    groups: Sequence[tuple[str, ...]], places: Sequence[str], template: str, seed: int
) -> list[Asked]:
    """Give one prompt of every group of nouns, at a place that none of them is held out from."""
    found = []
    for number, nouns in enumerate(groups):
        turned = [*places[number % len(places) :], *places[: number % len(places)]]
        place = next(p for p in turned if not any(held_out(noun, p) for noun in nouns))
        said = template.format(*(with_article(noun) for noun in nouns), PLACES[place])
        found.append(Asked(said, Shown(nouns, place), seed + number))
    return found


def groups_of(things: int, count: int, *, unseen: bool = False) -> list[tuple[str, ...]]:
    """Choose groups of nouns of which no pair (or, if ``unseen``, every one) is held out."""
    found = [
        nouns
        for nouns in combinations(NOUNS, things)
        if any(held_out(*pair) for pair in combinations(nouns, 2)) == unseen
    ]
    return found[:: max(1, len(found) // count)][:count]


def prompts(corpus: Corpus, places: Sequence[str], per_noun: int, seed: int) -> dict[str, list]:
    """Write every kind of prompt the model is examined with."""
    return {
        "plain": single(KNOWN, places, per_noun, seed),
        "unseen_order": single(UNSEEN, places, per_noun, seed),
        "colours": coloured(corpus, places, seed),
        "two": several(groups_of(2, 5 * per_noun), places, TWO, seed),
        "two_never_together": several(groups_of(2, 5 * per_noun, unseen=True), places, TWO, seed),
        "three": several(groups_of(3, 3 * per_noun), places, THREE, seed),
    }
