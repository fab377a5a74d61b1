"""Exchange neurons with the mask in place, where weights interact (beyond the paper; Sec. 3.1).

The paper rates each weight as if it were shut alone and slightly. Here every weight has a latent
score, the highest are shut, and all scores follow the gradient measured with the mask in place,
passed straight through the choice. The last mask is the result; whether it is better is for the
certificate to say.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.loss import Losses, Weights, flat, split, wide
from cones.search.resume import ALONE, Keeper
from cones.search.score import ascend, steering
from cones.search.select import eligible, highest
from cones.search.settings import Settings

SPAN = 2.0  # scores further from the border, in typical distances, start here
SAFE = 0.0132  # above this density the number of neurons grows over the first half of the steps
QUICK, SLOW = 3.0, 0.03  # powers of drift over its aim: lambda answers by one, moves by the other
LEAST = 1e-3  # of lambda where it is steered


def refine(
    losses: Losses,
    weights: Weights,
    ranking: Float[Tensor, " n"],
    settings: Settings,
    *,
    density: float,
    prior_weight: float,
    within: Mask | None = None,
    keeper: Keeper = ALONE,
) -> tuple[Mask, Float[Tensor, " n"], float]:
    """Exchange neurons at fixed density by straight-through gradients under Adam.

    Starts from the best of ``ranking``, which is made into the scores, in place. With a drift in
    the settings, lambda starts at ``prior_weight`` and is steered so that the prior's half of the
    loss ends there.

    Returns:
        The mask, the scores that rank its neurons, and the last lambda.
    """
    steps, aim, theta = settings.steps, settings.drift, flat(weights)
    allowed = eligible(weights, guard=settings.guard, within=within)
    first, last = _counts(allowed, density)
    lam = steering(prior_weight) if aim is None else steering(max(prior_weight, LEAST), aim)

    def gate(score: Float[Tensor, " n"], step: int) -> Float[Tensor, " n"]:
        count = round(first + (last - first) * min(1.0, 2 * step / steps))
        return theta.masked_fill(highest(score, count), 0)

    def steer(state: dict[str, Tensor], drift: float, step: int) -> None:
        if aim is not None:
            _answer(state, drift, aim, growing=first < last and 2 * step <= steps)

    start = {"score": _latent(wide(ranking), allowed, first)} | lam
    how = {"stage": f"refine {density:.2%}", "steps": steps, "rate": settings.rate}
    state = ascend(losses, weights, start, gate, steer=steer, keeper=keeper, **how)
    mask = Mask.where(split(highest(state["score"], last), weights))
    return mask, state["score"], float(state["lambda"])


def _counts(allowed: Bool[Tensor, " n"], density: float) -> tuple[int, int]:
    """Count the neurons at the first step and at the last."""
    last = min(round(density * len(allowed)), int(allowed.sum()))
    if not last:
        raise SearchError(
            f"found no weight to shut at density {density:g}; expected one at least; raise the "
            "density, or the guard"
        )
    return max(1, min(round(SAFE * len(allowed)), last)), last


def _answer(state: dict[str, Tensor], drift: float, aim: float, *, growing: bool) -> None:
    """Move lambda by a drift; while the mask still grows, a small one is no reason to let go."""
    state["drift"].lerp_(torch.tensor(drift, dtype=torch.float64), 0.1)
    excess = min(math.e, max(1 / math.e, float(state["drift"]) / aim))
    if excess > 1 or not growing:
        state["base"].mul_(excess**SLOW)
    state["lambda"].copy_(state["base"] * excess**QUICK)


def _latent(
    score: Float[Tensor, " n"], allowed: Bool[Tensor, " n"], count: int
) -> Float[Tensor, " n"]:
    """Put the border of the best ``count`` at 0, and a typical weight at -1, in place."""
    above = score.sub_(score[highest(score, count, allowed)].min())
    scale = above[allowed].abs().mean().clamp(min=1e-30)
    return above.div_(scale).clamp_(-SPAN, SPAN).masked_fill_(~allowed, -torch.inf)
