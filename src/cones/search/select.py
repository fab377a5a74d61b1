"""Turn scores into concept neurons: the share of the weights to shut decides (Eq. A20).

Scores have no natural scale, so density is the knob and ``tau`` its result. They come flat, as
:func:`cones.search.loss.flat` orders them. Selection is exact and deterministic: ties go to the
parameter whose name sorts first, then to the lower position, so masks of growing density are
nested.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cones.mask import Mask
from cones.search.loss import Weights, flat, split

SAMPLE = 2**18  # scores, of many more


def top(
    score: Float[Tensor, " n"],
    weights: Weights,
    *,
    density: float,
    guard: float | None = None,
    within: Mask | None = None,
) -> Mask:
    """Keep the highest positive scores: Eq. A20 with the ``tau`` that gives this density.

    ``score`` is ``M_p``, or anything that ranks alike. The density is exact, unless fewer weights
    are :func:`eligible`.
    """
    allowed = eligible(weights, guard=guard, within=within) & (score > 0)
    hits = highest(score, round(density * len(score)), allowed)
    return Mask.where(split(hits, weights))


def nested(score: Float[Tensor, " n"], mask: Mask, shares: Iterable[float]) -> tuple[Mask, ...]:
    """Cut sparser levels from a mask by score; each holds the one before, ``mask`` is the last.

    ``shares`` says which shares of its neurons the others keep. The sign of scores is ignored.
    """
    levels, like = [mask], mask.hits()
    hits = flat(like).to(score.device)
    for share in sorted(shares, reverse=True):
        hits = highest(score, round(share * len(mask)), hits)
        levels.insert(0, Mask.where(split(hits, like)))
    return tuple(levels)


def eligible(
    weights: Weights, *, guard: float | None = None, within: Mask | None = None
) -> Bool[Tensor, " n"]:
    """Mark the weights that may be shut.

    These have ``|theta| < guard * std`` of their parameter, and lie ``within`` a mask (Sec. 3.3).
    """
    marked = flat({name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})
    if guard is not None:
        theta = {name: weight.detach().float() for name, weight in weights.items()}
        small = {name: w.abs() < guard * w.std(correction=0) for name, w in theta.items()}
        marked &= flat(small)
    if within is not None:
        inside = (Mask.empty({n: tuple(w.shape) for n, w in weights.items()}) | within).hits()
        marked &= flat({name: inside[name] for name in weights}).to(marked.device)
    return marked


def highest(
    score: Float[Tensor, " n"], count: int, allowed: Bool[Tensor, " n"] | None = None
) -> Bool[Tensor, " n"]:
    """Mark the ``count`` highest scores among ``allowed``, or all finite ones if these are few."""
    if not count:
        return torch.zeros_like(score, dtype=torch.bool)
    score = score if allowed is None else score.masked_fill(~allowed, -torch.inf)
    count = min(count, len(score))
    if score.device.type == "cpu":  # many times faster than any function of torch
        cut = _ranked(score.numpy(), count)
    else:
        cut = float(score.topk(count, sorted=False).values.min())
    if cut == -torch.inf:
        return score > cut
    hits = score > cut
    hits[(score == cut).nonzero()[: count - int(hits.sum()), 0]] = True
    return hits


def _ranked(score: np.ndarray, count: int) -> float:
    """Give the value of rank ``count``: among very many it is first looked for near a sample's."""
    if (every := len(score) // SAMPLE) > 3:
        some = np.sort(score[::every])
        place, near = len(some) * (1 - count / len(score)), 5 * len(some) ** 0.5
        low, high = (some[int(np.clip(place + d, 0, len(some) - 1))] for d in (-near, near))
        above = int(np.count_nonzero(score > high))
        inside = score[(score >= low) & (score <= high)]
        if above < count <= above + len(inside):
            score, count = inside, count - above
    return float(np.partition(score, -count)[-count])
