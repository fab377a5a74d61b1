"""Turn scores into concept neurons: by threshold (Eq. A20) or by the share of weights to shut.

Scores have no natural scale, so density is the knob and ``tau`` its result. Selection is exact
and deterministic: ties go to the parameter whose name sorts first, then to the lower position, so
masks of growing density are nested.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask

Scores: TypeAlias = Mapping[str, Tensor]
Hits: TypeAlias = dict[str, Bool[Tensor, "..."]]


def threshold(score: Scores, tau: float) -> Mask:
    """Keep what exceeds ``tau`` (Eq. A20), which is in the units of ``score`` and above 0."""
    if not tau > 0:
        raise SearchError(f"tau is {tau}; expected more than 0 (Algorithm 1); raise it")
    return Mask.where({name: s > tau for name, s in score.items()})  # Eq. A20


def top(
    score: Scores,
    weights: Mapping[str, Tensor],
    *,
    density: float,
    per: Literal["model", "layer"] = "model",
    guard: float | None = None,
    within: Mask | None = None,
) -> Mask:
    """Keep the highest positive scores: Eq. A20 with the ``tau`` that gives this density.

    Args:
        score: ``M_p`` of every weight, or anything that ranks alike.
        weights: The searched weights, of the same names and shapes.
        density: Share of the weights to keep. Exact, unless fewer may be shut.
        per: ``"layer"`` takes the share of every parameter, ``"model"`` of all together.
        guard: Keep only weights with ``|theta| < guard * std`` of their parameter.
        within: Keep only neurons of this mask (Sec. 3.3); a MaskError if of another model.
    """
    allowed = eligible(weights, guard=guard, within=within)
    allowed = {name: hit & (score[name] > 0) for name, hit in allowed.items()}
    groups = [list(score)] if per == "model" else [[name] for name in score]
    hits: Hits = {}
    for group in groups:
        count = round(density * sum(weights[name].numel() for name in group))
        of_group = {name: allowed[name] for name in group}
        hits |= highest({name: score[name] for name in group}, of_group, count)
    return Mask.where(hits)


def nested(score: Scores, mask: Mask, shares: Iterable[float]) -> tuple[Mask, ...]:
    """Cut sparser levels from a mask by score; each holds the one before, ``mask`` is the last.

    ``shares`` says which shares of its neurons the others keep. The sign of scores is ignored.
    """
    levels, hits = [mask], {n: hit.to(score[n].device) for n, hit in mask.hits().items()}
    for share in sorted(shares, reverse=True):
        hits = highest(score, hits, round(share * len(mask)))
        levels.insert(0, Mask.where(hits))
    return tuple(levels)


def eligible(
    weights: Mapping[str, Tensor], *, guard: float | None = None, within: Mask | None = None
) -> Hits:
    """Mark the weights that may be shut: ``|theta| < guard * std``, and in ``within``."""
    marked = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    if guard is not None:
        for name, weight in weights.items():
            theta = weight.detach().float()
            marked[name] &= theta.abs() < guard * theta.std(correction=0)
    if within is not None:
        inside = (Mask.empty({n: tuple(w.shape) for n, w in weights.items()}) | within).hits()
        for name, hit in marked.items():
            hit &= inside[name].to(hit.device)
    return marked


def highest(score: Scores, allowed: Hits, count: int) -> Hits:
    """Mark the ``count`` highest allowed scores, or all allowed if there are no more."""
    if count <= 0:
        return {name: torch.zeros_like(hit) for name, hit in allowed.items()}
    pool = torch.cat([score[name][allowed[name]] for name in sorted(score)])
    if count >= len(pool):
        return dict(allowed)
    cut = pool.topk(count, sorted=False).values.min()
    hits = {name: allowed[name] & (s > cut) for name, s in score.items()}
    missing = count - sum(int(hit.sum()) for hit in hits.values())
    for name in sorted(score):
        ties = (allowed[name] & (score[name] == cut)).reshape(-1).nonzero()[:missing, 0]
        hits[name].view(-1)[ties] = True
        missing -= len(ties)
    return hits
