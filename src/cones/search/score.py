"""Score every weight by how much shutting it should lower a loss (Sec. 3.1, Appendix A.2).

Both algorithms sum ``theta * dL/dtheta`` over K gradients. They differ in the points where these
are taken: on the self-adaptive path of Eq. 10 (Algorithm 1), or on a gate ``xi`` (Algorithm A2).
The model is never written to. Turning scores into neurons is :mod:`select`.
"""

from typing import Literal

import torch
from torch import Tensor

from cones.search.loss import Gradient, Losses, Weights, differentiate, wide
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
) -> dict[str, Tensor]:
    """Sum ``theta * dL/dtheta`` along the self-adaptive samples (Algorithm 1, Eqs. 9-11).

    Takes exactly ``steps`` gradients, ``theta^1 .. theta^K``: the sum of the paper has K terms,
    although its loop ends one update early and Eq. A18 counts differently again. ``rate`` is rho;
    ``rate * theta * dL/dtheta`` has to stay well below 1.

    Returns:
        ``M_p`` of every weight, in units of the loss.

    Raises:
        SearchError: A loss or gradient is not finite, or the state cannot be kept.
    """
    weights = in_order(weights)

    def start() -> Slots:
        copies = {name: wide(w).clone() for name, w in weights.items()}
        return {"theta": copies, "total": zeros(weights)}

    def measure(slots: Slots, step: int) -> Gradient:
        point = {name: t.to(weights[name].dtype) for name, t in slots["theta"].items()}
        return differentiate(losses(step), point, prior_weight=prior_weight, step=step)

    def absorb(slots: Slots, step: int, found: Gradient) -> None:
        for name, theta in slots["theta"].items():
            product = theta * found.of[name]
            slots["total"][name] += product  # Eq. 9
            theta.addcmul_(product, theta, value=-rate)  # Eqs. 10 and 11

    run = (keeper or Keeper()).run
    return run("score", steps, start=start, measure=measure, absorb=absorb)["total"]


def score_accelerated(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    prior_weight: float = 1.0,
    optimiser: Literal["adam", "sgd"] = "adam",
    keeper: Keeper | None = None,
) -> dict[str, Tensor]:
    """Read ``M_p`` off K gradient steps on a gate ``xi * theta`` (Algorithm A2, Eqs. A12-A19).

    With ``"sgd"`` this is the paper to the letter: one gradient equals :func:`score_sampled`, and
    more differ from it by O(``rate``) (Eq. A17). With ``"adam"`` each gate moves by about ``rate``
    a step whatever its scale, so ``M_p`` lies in about [-K, K] and counts how *consistently*
    shutting helps; only so can the paper's rates be understood.
    """
    weights = in_order(weights)
    slots_of = ("shrink", "first", "second") if optimiser == "adam" else ("shrink",)

    def start() -> Slots:
        # Steps from xi = 1 are below float32's resolution at the paper's rate: keep 1 - xi.
        return {slot: zeros(weights) for slot in slots_of}

    def measure(slots: Slots, step: int) -> Gradient:
        xi = {name: 1 - s for name, s in slots["shrink"].items()}
        gamma = {name: (xi[name] * w).to(w.dtype) for name, w in weights.items()}
        return differentiate(losses(step), gamma, prior_weight=prior_weight, step=step)

    def absorb(slots: Slots, step: int, found: Gradient) -> None:
        for name, w in weights.items():
            ascent = w * found.of[name]  # Eqs. A12 and A13: dL/dxi
            if optimiser == "adam":
                climb(slots, "shrink", name, ascent, step=step, rate=rate)
            else:
                slots["shrink"][name].add_(ascent, alpha=rate)  # Eq. A15

    run = (keeper or Keeper()).run
    shrink = run("score", steps, start=start, measure=measure, absorb=absorb)["shrink"]
    return {name: s / rate for name, s in shrink.items()}  # Eq. A19


def climb(slots: Slots, slot: str, name: str, ascent: Tensor, *, step: int, rate: float) -> None:
    """Move a slot up along ``ascent`` by one step of Adam, in place; ``step`` counts from 0."""
    first, second = slots["first"][name], slots["second"][name]
    first.lerp_(ascent, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(ascent, ascent, value=1 - BETAS[1])
    scale = second.div(1 - BETAS[1] ** (step + 1)).sqrt_().add_(EPSILON)
    slots[slot][name].addcdiv_(first, scale, value=rate / (1 - BETAS[0] ** (step + 1)))


def in_order(weights: Weights) -> dict[str, Tensor]:
    """View the weights outside of autograd, sorted: no result depends on a dictionary's order."""
    return {name: weights[name].detach() for name in sorted(weights)}


def zeros(weights: Weights) -> dict[str, Tensor]:
    """Give an empty accumulator in at least float32."""
    return {name: torch.zeros_like(wide(w)) for name, w in weights.items()}
