"""Gradients of a loss of the searched weights, and the two things searches do with them.

A loss is a function of the weights alone (Eq. 4), which it is handed as ``name -> tensor``;
``losses(k)`` is the loss of step ``k``. All sums are kept in at least float32, one parameter is
worked on at a time, and the weights themselves are never written to.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cones.errors import SearchError
from cones.state import SearchState

Weights = Mapping[str, Tensor]
Loss = Callable[[Weights], Tensor]
Losses = Callable[[int], Loss]
Scores = dict[str, Tensor]

_BETAS = (0.9, 0.999)
_NEGLIGIBLE = 1e-15
_SEARCHABLE = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def differentiate(loss: Loss, point: Weights, *, step: int) -> tuple[float, dict[str, Tensor]]:
    """Evaluate ``loss`` and its gradient at ``point``.

    Raises:
        SearchError: The loss is not a finite scalar or ignores a weight, or a gradient is not
            finite.
    """
    leaves = {name: w.detach().requires_grad_() for name, w in point.items()}
    with torch.enable_grad():
        value = loss(leaves)
    if value.numel() != 1 or not value.requires_grad:
        raise SearchError(
            f"the loss of step {step} has shape {tuple(value.shape)} and requires_grad="
            f"{value.requires_grad}; expected a scalar computed from the weights it is given; "
            "average the samples and do not detach"
        )
    found = float(value.detach())
    if not math.isfinite(found):
        raise _not_finite(f"the loss of step {step} is {found}")
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        if gradient is None:
            raise SearchError(
                f"the loss of step {step} does not depend on {name!r}; expected every searched "
                "weight to be used; undo fused projections, or narrow the scope"
            )
    largest = torch.stack([g.abs().amax().float() for g in gradients])
    for name, peak in zip(leaves, largest.tolist(), strict=True):
        if not math.isfinite(peak):
            raise _not_finite(f"the gradient of {name!r} at step {step} holds {peak}")
    return found, dict(zip(leaves, gradients, strict=True))


def add_moments(theta: Weights, gradients: Weights, *, total: Scores, square: Scores) -> None:
    """Add ``theta * dL/dtheta`` and its square to ``total`` and ``square``, in place."""
    for name, gradient in gradients.items():
        product = theta[name] * gradient.to(total[name].dtype)
        total[name] += product
        square[name].addcmul_(product, product)


def consistency(mean: Tensor, rms: Tensor) -> Tensor:
    """Divide mean by RMS, in [-1, 1]; products whose squares underflow count as none."""
    return mean / rms.clamp(min=_NEGLIGIBLE)


def climb(
    state: SearchState, slot: str, name: str, ascent: Tensor, *, rate: float, epsilon: float
) -> None:
    """Move ``slot`` up along ``ascent`` by one step of Adam without weight decay, in place."""
    first, second = state.slots["first"][name], state.slots["second"][name]
    slow, slower = _BETAS
    first.lerp_(ascent, 1 - slow)
    second.mul_(slower).addcmul_(ascent, ascent, value=1 - slower)
    count = state.step + 1
    scale = second.div(1 - slower**count).sqrt_().add_(epsilon)
    state.slots[slot][name].addcdiv_(first, scale, value=rate / (1 - slow**count))


def searchable(weights: Weights) -> dict[str, Tensor]:
    """View the weights outside of autograd; a parameter would record the whole search.

    Raises:
        SearchError: There are none, or they hold no differentiable values.
    """
    if not weights:
        raise SearchError("there is no weight to search; expected at least one; widen the scope")
    for name, weight in weights.items():
        if weight.is_meta or weight.dtype not in _SEARCHABLE or weight.numel() == 0:
            raise SearchError(
                f"{name!r} is {weight.dtype} of shape {tuple(weight.shape)} on {weight.device}; "
                "expected float16, bfloat16, float32 or float64 values in memory; load the model "
                "unquantised and without offloading"
            )
    return {name: w.detach() for name, w in weights.items()}


def wide(weight: Tensor) -> Tensor:
    """Return ``weight`` in at least float32, in which scores are summed."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def zeros(weights: Weights) -> Scores:
    """Return an empty accumulator in at least float32."""
    return {
        name: torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
        for name, w in weights.items()
    }


def require_rate(rate: float) -> None:
    """Refuse a learning rate that is not positive.

    Raises:
        SearchError: It is not.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise SearchError(f"rate is {rate}, expected a positive number; the paper has 2e-5")


def _not_finite(found: str) -> SearchError:
    return SearchError(
        f"{found}, expected finite numbers; the state is that of the last complete step: lower "
        "the rate, use bfloat16 or float32 instead of float16, or check the images"
    )
