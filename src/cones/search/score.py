"""Score every weight by how much shutting it should lower a loss (Sec. 3.1, Appendix A.2).

Both algorithms sum ``theta * dL/dtheta`` over K gradients. They differ in the points where these
are taken: on the self-adaptive path of Eq. 10 (Algorithm 1), or on a gate ``xi`` (Algorithm A2).
Scores are flat, see :func:`cones.search.loss.flat`. The model is never written to.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cones.search.loss import Gradient, Losses, Weights, differentiate, flat, split, wide
from cones.search.resume import Keeper, Slots

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's


def score_sampled(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    prior_weight: float = 1.0,
    keeper: Keeper | None = None,
) -> Float[Tensor, " n"]:
    """Sum ``theta * dL/dtheta`` along the self-adaptive samples (Algorithm 1, Eqs. 9-11).

    Takes exactly ``steps`` gradients, ``theta^1 .. theta^K``: the sum of the paper has K terms,
    although its loop ends one update early and Eq. A18 counts differently again. ``rate`` is rho;
    ``rate * theta * dL/dtheta`` has to stay well below 1.

    Returns:
        ``M_p`` of every weight, in units of the loss.

    Raises:
        SearchError: A loss or gradient is not finite, or the state cannot be kept.
    """
    theta = flat(weights)
    start = {"theta": wide(theta.clone()), "total": torch.zeros_like(wide(theta))}

    def measure(slots: Slots, step: int) -> Gradient:
        point = split(slots["search"]["theta"].to(theta.dtype), weights)
        return differentiate(losses(step), point, prior_weight=prior_weight, step=step)

    def absorb(slots: Slots, step: int, found: Gradient) -> None:
        now, total = slots["search"]["theta"], slots["search"]["total"]
        product = now * flat(found.of)
        total += product  # Eq. 9
        now.addcmul_(product, now, value=-rate)  # Eqs. 10 and 11

    run = (keeper or Keeper()).run
    slots = run("score", steps, start=lambda: {"search": start}, measure=measure, absorb=absorb)
    return slots["search"]["total"]


def score_accelerated(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    prior_weight: float = 1.0,
    keeper: Keeper | None = None,
) -> Float[Tensor, " n"]:
    """Read ``M_p`` off K steps of Adam on a gate ``xi * theta`` (Algorithm A2, Eqs. A12-A19).

    Each gate moves by about ``rate`` a step whatever its scale, so ``M_p`` lies in about [-K, K]
    and counts how *consistently* shutting helps; only so can the paper's rates be understood.
    Plain descent, Eq. A15, would give :func:`score_sampled` up to O(``rate``) (Eq. A17).
    """
    theta = flat(weights)
    # Steps from xi = 1 are below float32's resolution at the paper's rate: keep 1 - xi.
    start = climbing(torch.zeros_like(wide(theta)))

    def measure(slots: Slots, step: int) -> Gradient:
        gamma = ((1 - slots["search"]["score"]) * theta).to(theta.dtype)
        point = split(gamma, weights)
        return differentiate(losses(step), point, prior_weight=prior_weight, step=step)

    def absorb(slots: Slots, step: int, found: Gradient) -> None:
        ascent = theta * flat(found.of)  # Eqs. A12 and A13: dL/dxi
        climb(slots["search"], ascent, step=step, rate=rate)

    run = (keeper or Keeper()).run
    slots = run("score", steps, start=lambda: {"search": start}, measure=measure, absorb=absorb)
    return slots["search"]["score"] / rate  # Eq. A19


def climbing(score: Float[Tensor, " n"]) -> dict[str, Tensor]:
    """Give the state of Adam before its first step."""
    return {"score": score, "first": torch.zeros_like(score), "second": torch.zeros_like(score)}


def climb(
    state: dict[str, Tensor], ascent: Float[Tensor, " n"], *, step: int, rate: float
) -> None:
    """Move scores up along ``ascent`` by one step of Adam, in place; ``step`` counts from 0."""
    first, second = state["first"], state["second"]
    first.lerp_(ascent, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(ascent, ascent, value=1 - BETAS[1])
    scale = second.div(1 - BETAS[1] ** (step + 1)).sqrt_().add_(EPSILON)
    state["score"].addcdiv_(first, scale, value=rate / (1 - BETAS[0] ** (step + 1)))
