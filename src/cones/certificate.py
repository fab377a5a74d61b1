"""Certify a search: what shutting does to the loss on samples that the search never drew.

The same samples (pictures, timesteps, noise) are used for the untouched model, every level and
the random control, so their differences are free of sampling noise. A mask that raises the loss
is marked as such; it is for the caller to say so loudly.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cones.mask import ConceptMask
from cones.objective import ImplantingLoss, JointLoss, Parts


def certify(
    loss: ImplantingLoss | JointLoss,
    weights: Mapping[str, Tensor],
    levels: tuple[ConceptMask, ...],
    *,
    density: float | None,
    samples: int,
    seed: int,
    on_progress: Callable[[int, int], object] = lambda done, count: None,
) -> tuple[dict[str, Any], int]:
    """Measure every level on the same held-out samples and choose one (line search).

    The chosen level is the sparsest within one standard error of the best, or the one nearest to
    ``density``. The random control has the same number of neurons in every site.

    Args:
        loss: Whose held-out samples are measured; the search must have drawn from ``at`` only.
        weights: The untouched weights.
        levels: Nested masks.
        density: The density to use, or None to choose it.
        samples: Number of held-out samples of each half of the loss.
        seed: Of the samples and of the random control.
        on_progress: Called with measurements begun and their number.

    Returns:
        The certificate, and the number of the chosen level.
    """

    def measure(mask: ConceptMask | None, step: int) -> Parts:
        on_progress(step, len(levels) + 2)
        found = weights if mask is None else closed(weights, mask)
        return loss.parts(found, samples=samples, seed=seed)

    untouched = measure(None, 1)
    curve = [measure(mask, 2 + k) for k, mask in enumerate(levels)]
    if density is None:
        level = _choose(untouched, curve)
    else:
        level = min(range(len(levels)), key=lambda k: abs(levels[k].density - density))
    draw = torch.Generator().manual_seed(seed)
    random = measure(levels[level].random_like(draw), len(levels) + 2)
    shut = curve[level]
    return {
        "held_out_samples": samples,
        "prior_weight": untouched.prior_weight,
        "untouched": means_of(untouched),
        "shut": means_of(shut),
        "random": means_of(random),
        "standard_error": _error(shut, untouched),
        "curve": [
            {"density": mask.density, **means_of(parts)}
            for mask, parts in zip(levels, curve, strict=True)
        ],
        "raises_loss": shut.total > untouched.total,
    }, level


def closed(weights: Mapping[str, Tensor], mask: ConceptMask) -> dict[str, Tensor]:
    """Give a copy of the weights with the concept neurons shut (``M * theta``)."""
    hits = mask.hits()
    return {n: w.masked_fill(hits[n].to(w.device), 0) for n, w in weights.items()}


def _choose(untouched: Parts, curve: list[Parts]) -> int:
    """Pick the sparsest level whose loss is within one standard error of the best."""
    best = min(range(len(curve)), key=lambda k: curve[k].total)
    limit = curve[best].total + _error(curve[best], untouched)
    return next(k for k, parts in enumerate(curve) if parts.total <= limit)


def _error(found: Parts, untouched: Parts) -> float:
    """Give the standard error of the change of the loss, paired over samples."""
    change = (found.subject - untouched.subject).var() / len(found.subject)
    if len(found.prior):
        prior = (found.prior - untouched.prior).var() / len(found.prior)
        change = change + found.prior_weight**2 * prior
    return float(change.sqrt())


def means_of(parts: Parts) -> dict[str, float]:
    """Give the mean loss on the subject and on the prior, and both together (Eq. 4)."""
    prior = float(parts.prior.mean()) if len(parts.prior) else 0.0
    return {"subject": float(parts.subject.mean()), "prior": prior, "loss": parts.total}
