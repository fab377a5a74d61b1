"""Choose the word that V* starts from: the one under which the model already fits the photos best.

The embedding of V* is never trained; what it starts from is all that it says before neurons are
shut. Of many rare words a few lean towards a subject and most lean elsewhere. The word that moves
predictions most is a bad start: it says something else, loudly.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cones.models.base import Model
from cones.models.unet import computing, precision_of
from cones.models.words import candidates
from cones.search.loss import Draw, Examples, draw, predicted
from cones.search.spread import spread
from cones.subject import with_article

ROUNDS = ((None, 4), (32, 16))  # how many words are tried, on how many noised samples each
_SMALL, _AT_ONCE = 256, (32, 4)  # samples in the network, for pictures up to 256 pixels and larger


class Start(NamedTuple):
    """A word, how far it lowers the error on the photos, and how far it moves predictions.

    Both figures are relative. Below a response of .05 a model hardly hears a word; a colour moves
    it by .1 to .3.
    """

    word: str
    gain: float
    response: float


@torch.no_grad()
def choose_start(
    model: Model, photos: Float[Tensor, "n c h w"], noun: str, *, identifier: str = "V*"
) -> Start:
    """Choose the word that an identifier starts from, by the error on photos (Eq. 1).

    ``photos`` are pictures in [0, 1], or their latents. All words see the same noised samples,
    the best of a first round more of them. Subjects differ by the number in their identifier:
    ``V2*`` gets the second best.
    """
    latents = photos if photos.shape[1:] == model.latent_shape else model.encode(photos)
    plain = with_article(noun)
    ranking = [*candidates(model.pipeline)]
    pairs = Examples(latents, model.condition([plain] * len(latents)))

    def called(word: str) -> str:
        return with_article(f"{word} {noun}")

    def error(drawn: Draw, found: Tensor) -> float:
        return float((drawn.weight * (found - drawn.target).square()).mean())

    with computing(model, precision_of(model, "auto")):
        for k, (most, count) in enumerate(ROUNDS):
            drawn = draw(model, pairs, count, purpose=f"start {k}", seed=0)
            tried, rest = ranking[:most], ranking[most or len(ranking) :]
            found = _predictions(model, drawn, [called(word) for word in tried])
            errors = {word: error(drawn, each) for word, each in zip(tried, found, strict=True)}
            ranking = [*sorted(tried, key=errors.__getitem__), *rest]
        nth = int((re.findall(r"\d+", identifier) or ["1"])[0])
        word = ranking[(nth - 1) % len(ranking)]
        drawn = draw(model, pairs, ROUNDS[-1][1], purpose="start", seed=0)
        before, after = _predictions(model, drawn, [plain, called(word)])
    response = float((after - before).norm() / before.norm())
    return Start(word, 1 - error(drawn, after) / error(drawn, before), response)


def _predictions(model: Model, drawn: Draw, prompts: Sequence[str]) -> Iterator[Tensor]:
    """Predict the same noised samples under every prompt, many samples at once."""
    count, at_once = len(drawn.timesteps), _AT_ONCE[model.size > _SMALL]
    several = max(1, at_once // count)

    def said(part: Sequence[str]) -> tuple[Tensor]:
        rows = torch.arange(count).repeat(len(part)).to(drawn.timesteps.device)
        now = drawn.noised[rows], drawn.timesteps[rows], drawn.target[rows], drawn.weight[rows]
        heard = model.condition(part).items()
        whole = Draw(*now, {n: each.repeat_interleave(count, 0) for n, each in heard})
        return (torch.cat([predicted(model, {}, piece) for piece in whole.parts(at_once)]),)

    cuts = [prompts[start : start + several] for start in range(0, len(prompts), several)]
    for (found,) in spread(partial(said, part) for part in cuts):
        yield from found.to(drawn.target.device).split(count)
