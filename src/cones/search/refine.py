"""Exchange neurons with the mask in place, where weights interact (beyond the paper; Sec. 3.1).

The paper rates each weight as if it were shut alone and slightly. Here every weight has a latent
score, the highest are shut, and all scores follow the gradient measured with the mask in place,
passed straight through the choice. The last mask is the result; whether it is better is for the
certificate to say.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.loss import Gradient, Losses, Weights, differentiate, flat, split, wide
from cones.search.resume import Keeper, Slots
from cones.search.score import climb, climbing
from cones.search.select import eligible, highest, only

SPAN = 2.0  # scores further from the border, in typical distances, start here
SAFE = 0.0132  # above this density the number of neurons grows over the first half of the steps
QUICK, SLOW = 3.0, 0.03  # powers of drift over its aim: lambda answers by one, moves by the other


def refine(
    losses: Losses,
    weights: Weights,
    ranking: Float[Tensor, " n"],
    *,
    density: float,
    steps: int,
    rate: float,
    prior_weight: float = 0.1,
    drift: float | None = None,
    guard: float | None = None,
    within: Mask | None = None,
    keeper: Keeper | None = None,
    stage: str = "refine",
) -> tuple[Mask, Float[Tensor, " n"], float]:
    """Exchange neurons at fixed density by straight-through gradients under Adam.

    Starts from the best of ``ranking``. A score moves by about ``rate`` a step; the border is at
    0, and a typical weight starts at -1. With ``drift``, lambda starts at ``prior_weight`` and is
    steered so that the prior's half of the loss ends there.

    Returns:
        The mask, the scores that rank its neurons, and the last lambda.

    Raises:
        SearchError: Nothing may be shut, or a loss or gradient is not finite.
    """
    allowed, lam = eligible(weights, guard=guard, within=within), _Lambda(prior_weight, drift)
    counts = _counts(allowed, density)
    ours = _Exchange(losses, weights, flat(weights), *counts, steps, rate, lam)
    start = climbing(_latent(wide(ranking), allowed, ours.first)) | lam.start()
    run, given = (keeper or Keeper()).run, {"search": start}
    slots = run(stage, steps, start=lambda: given, measure=ours.measure, absorb=ours.absorb)
    scores = slots["search"]["score"]
    mask = Mask.where(split(highest(scores, ours.last), weights))
    return mask, scores, lam.now(slots["search"])


def _counts(allowed: Bool[Tensor, " n"], density: float) -> tuple[int, int]:
    """Count the neurons at the first step and at the last."""
    last = min(round(density * len(allowed)), int(allowed.sum()))
    if not last:
        raise SearchError(
            f"found no weight to shut at density {density:g}; expected one at least; raise the "
            "density, or the guard"
        )
    return max(1, min(round(SAFE * len(allowed)), last)), last


@dataclass(frozen=True, eq=False)
class _Exchange:
    """The steps of a refinement."""

    losses: Losses
    weights: Weights
    theta: Float[Tensor, " n"]
    first: int
    last: int
    steps: int
    rate: float
    lam: "_Lambda"

    def measure(self, slots: Slots, step: int) -> Gradient:
        state, share = slots["search"], min(1.0, 2 * step / self.steps)
        grown = round(self.first + (self.last - self.first) * share)
        gamma = self.theta.masked_fill(highest(state["score"], grown), 0)
        point, lam = split(gamma, self.weights), self.lam.now(state)
        return differentiate(self.losses(step), point, prior_weight=lam, step=step)

    def absorb(self, slots: Slots, step: int, found: Gradient) -> None:
        ascent = self.theta * flat(found.of)  # Eq. 8 at gamma: -dL/dshut, straight through
        climb(slots["search"], ascent, step=step, rate=self.rate)
        growing = self.first < self.last and 2 * step <= self.steps
        self.lam.follow(slots["search"], found.prior, growing=growing)


@dataclass(frozen=True)
class _Lambda:
    """Lambda of Eq. 4: fixed, or answering to how far the drift is from its aim."""

    given: float
    aim: float | None

    def start(self) -> dict[str, Tensor]:
        base = self.given if self.aim is None else max(self.given, 1e-3)
        state = torch.tensor([base, self.aim or 0.0], dtype=torch.float64)
        return {"base": state[0], "drift": state[1]}

    def now(self, state: dict[str, Tensor]) -> float:
        return float(state["base"]) * self._excess(state) ** QUICK

    def follow(self, state: dict[str, Tensor], drift: float, *, growing: bool) -> None:
        """Take in a drift; while the mask still grows, a small one is no reason to let go."""
        if self.aim is not None:
            state["drift"].lerp_(torch.tensor(drift, dtype=torch.float64), 0.1)
            if self._excess(state) > 1 or not growing:
                state["base"].mul_(self._excess(state) ** SLOW)

    def _excess(self, state: dict[str, Tensor]) -> float:
        if self.aim is None:
            return 1.0
        return min(math.e, max(1 / math.e, float(state["drift"]) / self.aim))


def _latent(
    score: Float[Tensor, " n"], allowed: Bool[Tensor, " n"], count: int
) -> Float[Tensor, " n"]:
    """Put the border of the best ``count`` at 0, and scores at a mean distance of 1 from it."""
    above = score - score[highest(only(score, allowed), count)].min()
    scale = above[allowed].abs().mean().clamp(min=1e-30)
    return only(above.div_(scale).clamp_(-SPAN, SPAN), allowed)
