"""Exchange neurons with the mask in place, where weights interact (beyond the paper; Sec. 3.1).

The paper rates each weight as if it were shut alone and slightly. Here every weight has a latent
score, the highest are shut, and all scores follow the gradient measured with the mask in place,
passed straight through the choice. The last mask is the result; whether it is better is for the
certificate to say.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.loss import Gradient, Losses, Weights, differentiate, wide
from cones.search.resume import Keeper, Slots
from cones.search.score import climb, in_order, zeros
from cones.search.select import Hits, eligible, highest

SPAN = 2.0  # scores further from the border, in typical distances, start here
SAFE = 0.0132  # above this density the number of neurons grows over the first half of the steps
QUICK, SLOW = (
    3.0,
    0.03,
)  # powers of drift over its aim, by which lambda answers and by which it moves


def refine(
    losses: Losses,
    weights: Weights,
    ranking: Mapping[str, Tensor],
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
) -> tuple[Mask, dict[str, Tensor], float]:
    """Exchange neurons at fixed density by straight-through gradients under Adam.

    Starts from the best of ``ranking``. A score moves by about ``rate`` a step; the border is at
    0, and a typical weight starts at -1. With ``drift``, lambda starts at ``prior_weight`` and is
    steered so that the prior's half of the loss ends there.

    Returns:
        The mask, the scores that rank its neurons, and the last lambda.

    Raises:
        SearchError: Nothing may be shut, or a loss or gradient is not finite.
    """
    weights = in_order(weights)
    allowed = eligible(weights, guard=guard, within=within)
    counts, lam = _counts(weights, allowed, density), _Lambda(prior_weight, drift)
    ours = _Exchange(losses, weights, allowed, *counts, steps, rate, lam)
    start, run = partial(ours.start, ranking), (keeper or Keeper()).run
    slots = run(stage, steps, start=start, measure=ours.measure, absorb=ours.absorb)
    mask = Mask.where(highest(slots["latent"], allowed, ours.last))
    return mask, slots["latent"], lam.now(slots["lambda"])


def _counts(weights: Weights, allowed: Hits, density: float) -> tuple[int, int]:
    """Count the neurons at the first step and at the last."""
    free = sum(int(hit.sum()) for hit in allowed.values())
    total = sum(w.numel() for w in weights.values())
    last = min(round(density * total), free)
    if not last:
        raise SearchError(
            f"found no weight to shut at density {density:g}; expected one at least; raise the "
            "density, or the guard"
        )
    return max(1, min(round(SAFE * total), last)), last


@dataclass(frozen=True, eq=False)
class _Exchange:
    """The steps of a refinement."""

    losses: Losses
    weights: Weights
    allowed: Hits
    first: int
    last: int
    steps: int
    rate: float
    lam: "_Lambda"

    def start(self, ranking: Mapping[str, Tensor]) -> Slots:
        moments = {"first": zeros(self.weights), "second": zeros(self.weights)}
        latent = _latent(ranking, self.allowed, self.first)
        return {"latent": latent, **moments, "lambda": self.lam.start()}

    def measure(self, slots: Slots, step: int) -> Gradient:
        share = min(1.0, 2 * step / self.steps)
        grown = round(self.first + (self.last - self.first) * share)
        shut = highest(slots["latent"], self.allowed, grown)
        gamma = {name: w.masked_fill(shut[name], 0) for name, w in self.weights.items()}
        now = self.lam.now(slots["lambda"])
        return differentiate(self.losses(step), gamma, prior_weight=now, step=step)

    def absorb(self, slots: Slots, step: int, found: Gradient) -> None:
        for name, w in self.weights.items():
            ascent = w * found.of[name]  # Eq. 8 at gamma: -dL/dshut, straight through
            climb(slots, "latent", name, ascent, step=step, rate=self.rate)
        growing = self.first < self.last and 2 * step <= self.steps
        self.lam.follow(slots["lambda"], found.prior, growing=growing)


@dataclass(frozen=True)
class _Lambda:
    """Lambda of Eq. 4: fixed, or answering to how far the drift is from its aim."""

    given: float
    aim: float | None

    def start(self) -> dict[str, Tensor]:
        base = self.given if self.aim is None else max(self.given, 1e-3)
        state = torch.tensor([base, self.aim or 0.0], dtype=torch.float64)
        return {"base": state[0], "drift": state[1]}

    def now(self, state: Mapping[str, Tensor]) -> float:
        return float(state["base"]) * self._excess(state) ** QUICK

    def follow(self, state: Mapping[str, Tensor], drift: float, *, growing: bool) -> None:
        """Take in a drift; while the mask still grows, a small one is no reason to let go."""
        if self.aim is not None:
            state["drift"].lerp_(torch.tensor(drift, dtype=torch.float64), 0.1)
            if self._excess(state) > 1 or not growing:
                state["base"].mul_(self._excess(state) ** SLOW)

    def _excess(self, state: Mapping[str, Tensor]) -> float:
        if self.aim is None:
            return 1.0
        return min(math.e, max(1 / math.e, float(state["drift"]) / self.aim))


def _latent(ranking: Mapping[str, Tensor], allowed: Hits, count: int) -> dict[str, Tensor]:
    """Put the border of the best ``count`` at 0, and scores at a mean distance of 1 from it."""
    score = {name: wide(ranking[name].detach()) for name in allowed}
    inside = highest(score, allowed, count)
    border = torch.stack([score[n][hit].min() for n, hit in inside.items() if hit.any()]).min()
    far = torch.cat([(score[n][hit] - border).abs() for n, hit in allowed.items()]).mean()
    scale = far.clamp(min=1e-30)
    return {name: ((s - border) / scale).clamp(-SPAN, SPAN) for name, s in score.items()}
