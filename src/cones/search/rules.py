"""The rules that turn gradients into a mask; the settings say which.

``refine`` is what works. ``sum`` is the paper's Algorithm 1 to the letter and ``adam`` is its
Algorithm A2, both without a second look at weights that interact.
"""

from functools import partial
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.loss import ImplantingLoss, JointLoss, Weights
from cones.search.refine import refine
from cones.search.resume import Keeper
from cones.search.score import score_accelerated, score_sampled
from cones.search.select import top
from cones.search.settings import DENSITIES, Settings

# A mask, the scores that rank its neurons, and the last lambda.
Found: TypeAlias = tuple[Mask, Float[Tensor, " n"], float]


def candidates(
    loss: ImplantingLoss | JointLoss,
    weights: Weights,
    settings: Settings,
    *,
    within: Mask | None = None,
    keeper: Keeper | None = None,
) -> list[Found]:
    """Run the rule of the settings, for its density or for each of DENSITIES if that is open.

    Scoring and every refinement draw samples of their own.

    Raises:
        SearchError: No weight asks to be shut, or a loss or gradient is not finite.
    """
    lam = 0.0 if settings.prior == "none" else settings.prior_weight
    refining = settings.rule == "refine"
    refining = settings.rule == "refine"
    score = (score_sampled if settings.rule == "sum" else score_accelerated)(
        partial(loss.at, purpose="search-score", seed=settings.seed),
        weights,
        steps=settings.score_steps if refining else settings.steps,
        rate=settings.score_rate,
        prior_weight=lam,
        keeper=keeper,
    )
    found = []
    for density in DENSITIES if settings.density is None else (settings.density,):
        limits = {"density": density, "guard": settings.guard, "within": within}
        if refining:
            stage = f"refine {density:.2%}"
            losses = partial(loss.at, purpose=f"search-{stage}", seed=settings.seed)
            limits |= {"steps": settings.steps, "rate": settings.rate, "drift": settings.drift}
            limits |= {"prior_weight": lam, "keeper": keeper, "stage": stage}
            mask, score, lam = refine(losses, weights, score, **limits)
        else:
            mask = top(score, weights, **limits)
        found.append((mask, score, lam))
    if not all(mask for mask, _, _ in found):
        raise SearchError(
            f"found no weight that rule {settings.rule!r} would shut; expected some; take "
            "rule='refine', more steps, or no guard"
        )
    return found
