"""The examiner of the built-in model: a judge that the generator never saw, taught its words.

Linear classifiers on the judge's features name the things, the place and the colour of a picture.
They are fitted on composed pictures of the corpus and examined with others; every figure of the
model stands beside that one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cones.metrics import ImageEncoder
from cones.mini.arrange import stand
from cones.mini.data import HELD_OUT, Corpus
from cones.mini.probe import Probe, shares
from cones.mini.world import NOUNS
from cones.subject import pixels_of

FIT_SEED = 7  # of composed pictures, apart from pretraining's
COUNTS = (1, 2, 3)  # things in a picture


@dataclass(frozen=True)
class Shown:
    """What a picture shows, or should: nouns, a place, the colour word of a single thing."""

    nouns: tuple[str, ...]
    place: str
    colour: str | None = None


def composed(corpus: Corpus, number: int, seed: int, things: int = 1) -> tuple[np.ndarray, Shown]:
    """Compose picture ``number`` as in training, pairs held out from training included."""
    rng = np.random.default_rng((seed, number, things))
    first = list(NOUNS)[number % len(NOUNS)]
    others = [str(n) for n in rng.permutation([n for n in NOUNS if n != first])]
    nouns = (first, *others[: things - 1])
    sprites = [corpus.sprite(noun, corpus.drawn(noun, rng), rng) for noun in nouns]
    background = corpus.background(rng)
    canvas = background.image.copy()
    stand(canvas, sprites, background, rng)
    colour = sprites[0].thing.colour if things == 1 else None
    return np.asarray(canvas), Shown(nouns, background.label, colour)


def share_of(right: Iterable[bool]) -> dict[str, Any]:
    """Give the share of what is right, and of how many."""
    answers = list(right)
    return {"share": sum(answers) / len(answers), "count": len(answers)}


@dataclass(frozen=True, eq=False)
class Known:
    """Composed pictures and what they show.

    Attributes:
        pixels: RGB in [0, 1].
        shown: One entry a picture.
    """

    pixels: Float[Tensor, "n 3 h w"]
    shown: list[Shown]

    @classmethod
    def compose(cls, corpus: Corpus, numbers: range, things: int) -> "Known":
        """Compose the pictures of these numbers."""
        pairs = [composed(corpus, number, FIT_SEED, things) for number in numbers]
        return cls(pixels_of([image for image, _ in pairs]), [shown for _, shown in pairs])


class Examiner:
    """The judge and its classifiers of nouns, places and colours.

    Args:
        judge: Embeds pictures.
        corpus: Composes pictures.
        fitted: Number of pictures of one, two and three things each that it is fitted on.
        held_out: Number of other pictures of each that it is itself examined with.
    """

    def __init__(self, judge: ImageEncoder, corpus: Corpus, *, fitted: int, held_out: int) -> None:
        """Fit the classifiers and compose the pictures they are examined with."""
        self.judge = judge
        known = [Known.compose(corpus, range(fitted), things) for things in COUNTS]
        features = torch.cat([judge.images(part.pixels) for part in known])
        shown = [entry for part in known for entry in part.shown]
        self.nouns = Probe.fit(features, [entry.nouns for entry in shown])
        self.places = Probe.fit(features, [(entry.place,) for entry in shown])
        coloured = [i for i, entry in enumerate(shown) if entry.colour]
        self.colours = Probe.fit(features[coloured], [(shown[i].colour,) for i in coloured])
        fresh = range(HELD_OUT, HELD_OUT + held_out)
        self.fresh = {things: Known.compose(corpus, fresh, things) for things in COUNTS}

    def examine(
        self, features: Float[Tensor, "n d"], shown: Sequence[Shown]
    ) -> dict[str, dict[str, Any]]:
        """Count what is named right.

        Args:
            features: The judge's, of pictures that should all show the same number of things.
            shown: What they should show.

        Returns:
            ``nouns``: the share of pictures all of whose things are named, for single things by
            noun too; ``place``; ``colour``, over the pictures that have one.
        """
        things = len(shown[0].nouns)
        named = self.nouns.name(features, things)
        places = [names[0] for names in self.places.name(features, 1)]
        found = {
            "nouns": share_of(
                set(names) == set(entry.nouns) for names, entry in zip(named, shown, strict=True)
            ),
            "place": shares(places, [entry.place for entry in shown]),
        }
        if things == 1:
            found["nouns"] = shares([n[0] for n in named], [entry.nouns[0] for entry in shown])
        coloured = [i for i, entry in enumerate(shown) if entry.colour]
        if coloured:
            colours = self.colours.name(features[coloured], 1)
            found["colour"] = share_of(
                names[0] == shown[i].colour for names, i in zip(colours, coloured, strict=True)
            )
        return found
