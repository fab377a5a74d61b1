"""Score every weight by how much shutting it should lower a loss (Sec. 3.1, Appendix A.2).

Both algorithms sum ``theta * dL/dtheta`` over K gradients. They differ in the points where these
are taken: on the self-adaptive path of Eq. 10 (Algorithm 1), or on a gate ``xi`` (Algorithm A2).
Scores are flat, see :func:`cones.search.loss.flat`. The model is never written to.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cones.search.loss import Gradient, Losses, Weights, differentiate, flat, split, wide
from cones.search.resume import ALONE, Keeper

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's


def score_sampled(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    prior_weight: float = 1.0,
    keeper: Keeper = ALONE,
) -> Float[Tensor, " n"]:
    """Sum ``theta * dL/dtheta`` along the self-adaptive samples (Algorithm 1, Eqs. 9-11).

    Takes exactly ``steps`` gradients, ``theta^1 .. theta^K``: the sum of the paper has K terms,
    although its loop ends one update early and Eq. A18 counts differently again. ``rate`` is rho;
    ``rate * theta * dL/dtheta`` has to stay well below 1.

    Returns:
        ``M_p`` of every weight, in units of the loss.
    """
    theta = flat(weights)
    now, total = wide(theta.clone()), torch.zeros_like(wide(theta))

    def measure(step: int) -> Gradient:
        point = split(now.to(theta.dtype), weights)
        return differentiate(losses(step), point, prior_weight=prior_weight, step=step)

    def absorb(_: int, found: Gradient) -> None:
        product = now * flat(found.of)
        total.add_(product)  # Eq. 9
        now.addcmul_(product, now, value=-rate)  # Eqs. 10 and 11

    state = {"theta": now, "total": total}
    keeper.run("score", steps, state=state, measure=measure, absorb=absorb)
    return total


def score_accelerated(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    prior_weight: float = 1.0,
    keeper: Keeper = ALONE,
) -> Float[Tensor, " n"]:
    """Read ``M_p`` off K steps of Adam on a gate ``xi * theta`` (Algorithm A2, Eqs. A12-A19).

    Each gate moves by about ``rate`` a step whatever its scale, so ``M_p`` lies in about [-K, K]
    and counts how *consistently* shutting helps; only so can the paper's rates be understood.
    Plain descent, Eq. A15, would give :func:`score_sampled` up to O(``rate``) (Eq. A17).
    """
    theta = flat(weights)
    # Steps from xi = 1 are below float32's resolution at the paper's rate: keep 1 - xi.
    start = {"score": torch.zeros_like(wide(theta))} | steering(prior_weight)
    options = {"stage": "score", "steps": steps, "rate": rate, "keeper": keeper}

    def gate(score: Float[Tensor, " n"], _: int) -> Float[Tensor, " n"]:
        return ((1 - score) * theta).to(theta.dtype)

    state = ascend(losses, weights, start, gate, **options)
    return state["score"].div_(rate)  # Eq. A19


def steering(prior_weight: float, drift: float = 0.0) -> dict[str, Tensor]:
    """Give the state of lambda before the first step: what it is, and what it answers to."""
    numbers = {"lambda": prior_weight, "base": prior_weight, "drift": drift}
    return {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}


def ascend(
    losses: Losses,
    weights: Weights,
    start: dict[str, Tensor],
    gate: Callable[[Float[Tensor, " n"], int], Float[Tensor, " n"]],
    *,
    stage: str,
    steps: int,
    rate: float,
    steer: Callable[[dict[str, Tensor], float, int], object] | None = None,
    keeper: Keeper = ALONE,
) -> dict[str, Tensor]:
    """Move scores up by Adam, along the gradients at what ``gate`` makes of the weights.

    ``start`` holds the scores and the state of lambda, which ``steer`` may change after a step,
    by the drift that was seen there.
    """
    score = start["score"]
    now = start | {name: torch.zeros_like(score) for name in ("first", "second")}
    slots = [weights, *(split(now[name], weights) for name in ("score", "first", "second"))]

    def measure(step: int) -> Gradient:
        point, lam = split(gate(score, step), weights), float(now["lambda"])
        return differentiate(losses(step), point, prior_weight=lam, step=step)

    def absorb(step: int, found: Gradient) -> None:
        for name, gradient in found.of.items():  # one after another: nothing large is copied
            theta, value, first, second = (slot[name] for slot in slots)
            ascent = theta * gradient  # Eqs. 8, A12 and A13: -dL/dshut
            first.lerp_(ascent, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(ascent, ascent, value=1 - BETAS[1])
            scale = second.div(1 - BETAS[1] ** (step + 1)).sqrt_().add_(EPSILON)
            value.addcdiv_(first, scale, value=rate / (1 - BETAS[0] ** (step + 1)))
        if steer:
            steer(now, found.prior, step)

    keeper.run(stage, steps, state=now, measure=measure, absorb=absorb)
    return now
