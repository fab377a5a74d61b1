"""Scores of a drawn thing: is it the set's drawing, is it in the set's style, is it the thing?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cones.metrics import Encoder, ImageEncoder, TextAlignment

PAPER = 0.9  # all channels of white paper are above
FIGURES = ("drawing", "look", "noun", "nearer", "copies", "paper")
OF_CLIP = ("drawing_clip", "text")
DIGITS = 5


@dataclass(frozen=True, eq=False)
class References:
    """What pictures are compared with, RGB in [0, 1].

    Attributes:
        held_out: Thing -> the set's drawing of it, which no search has seen.
        fitted: The drawings that were searched on.
        photos: Thing -> photos of such things.
    """

    held_out: Mapping[str, Float[Tensor, "3 s s"]]
    fitted: Float[Tensor, "n 3 s s"]
    photos: Mapping[str, Float[Tensor, "_ 3 s s"]]

    @property
    def nouns(self) -> tuple[str, ...]:
        """Name the things."""
        return tuple(self.held_out)


@dataclass(frozen=True, eq=False)
class Eyes:
    """Who looks at pictures.

    Attributes:
        judge: An image encoder that the model knows nothing of.
        clip: An encoder of pictures and texts, or None to do without.
    """

    judge: ImageEncoder
    clip: Encoder | None = None

    @property
    def figures(self) -> tuple[str, ...]:
        """Name what :meth:`figures_of` returns."""
        return FIGURES if self.clip is None else (*FIGURES, *OF_CLIP)

    def figures_of(
        self, pixels: Float[Tensor, "n 3 s s"], references: References, prompts: Sequence[str]
    ) -> dict[str, list[float]]:
        """Score pictures, as many of every thing, thing by thing.

        Args:
            pixels: RGB in [0, 1].
            references: What to compare with.
            prompts: What every thing's pictures should show, in words that the CLIP knows.

        Returns:
            By figure one number a thing, mean over its pictures. Cosines of the judge's vectors:
            ``drawing``, with the set's drawing of the thing; ``look``, with its drawings of the
            other things; ``noun``, the first less the second; ``nearer``, the first less that
            with photos of the thing; ``copies``, with the fitted drawings less ``look``. By the
            CLIP: ``drawing_clip`` and ``text``, with the prompt. ``paper``: the share of white.
        """
        things, count = references.nouns, len(pixels) // len(references.nouns)
        own = torch.arange(len(things)).repeat_interleave(count)
        drawings = torch.stack(list(references.held_out.values()))
        ours = _ready(self.judge, pixels)
        cosines = ours @ _ready(self.judge, drawings).T
        drawing = cosines.gather(1, own[:, None])[:, 0]
        look = (cosines.sum(1) - drawing) / (len(things) - 1)
        photos = torch.cat(
            [
                (part @ _ready(self.judge, references.photos[thing]).T).mean(1)
                for part, thing in zip(ours.split(count), things, strict=True)
            ]
        )
        fitted = (ours @ _ready(self.judge, references.fitted).T).mean(1)
        found = {
            "drawing": drawing,
            "look": look,
            "noun": drawing - look,
            "nearer": drawing - photos,
            "copies": fitted - look,
            "paper": (pixels.amin(1) > PAPER).float().mean((1, 2)),
        }
        if self.clip is not None:
            theirs = _ready(self.clip, drawings)[own]
            found["drawing_clip"] = (_ready(self.clip, pixels) * theirs).sum(1)
            said = [prompt for prompt in prompts for _ in range(count)]
            found["text"] = TextAlignment(self.clip)(pixels, said)
        return {name: _rounded(values, count) for name, values in found.items()}


def _ready(encoder: ImageEncoder, pixels: Tensor) -> Float[Tensor, "n d"]:
    return F.normalize(encoder.images(pixels), dim=-1)


def _rounded(values: Float[Tensor, " n"], count: int) -> list[float]:
    means = values.double().reshape(-1, count).mean(1)
    return torch.round(means, decimals=DIGITS).tolist()
