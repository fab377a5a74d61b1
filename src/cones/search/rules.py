"""The rules that turn gradients into a mask; the settings say which.

``refine`` is what works. ``sum`` is the paper's Algorithm 1 to the letter and ``adam`` is its
Algorithm A2, both without a second look at weights that interact.
"""

from functools import partial

from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.loss import ImplantingLoss, JointLoss, Weights
from cones.search.refine import refine
from cones.search.resume import Keeper
from cones.search.score import score_accelerated, score_sampled
from cones.search.select import top
from cones.search.settings import DENSITIES, Settings


def candidates(
    loss: ImplantingLoss | JointLoss,
    weights: Weights,
    settings: Settings,
    *,
    within: Mask | None = None,
    keeper: Keeper | None = None,
) -> list[tuple[Mask, dict[str, Tensor], float]]:
    """Run the rule of the settings, for its density or for each of DENSITIES if that is open.

    Scoring and every refinement draw samples of their own.

    Returns:
        Of each density: a mask, the scores that rank its neurons, and the last lambda.

    Raises:
        SearchError: No weight asks to be shut, or a loss or gradient is not finite.
    """
    refining = settings.rule == "refine"
    lam = 0.0 if settings.prior == "none" else settings.prior_weight
    limits = {"guard": settings.guard, "within": within}
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
        mask, stage = top(score, weights, density=density, **limits), f"refine {density:.2%}"
        if refining:
            mask, score, lam = refine(
                partial(loss.at, purpose=f"search-{stage}", seed=settings.seed),
                weights,
                score,
                density=density,
                steps=settings.steps,
                rate=settings.rate,
                prior_weight=lam,
                drift=settings.drift,
                keeper=keeper,
                stage=stage,
                **limits,
            )
        found.append((mask, score, lam))
    if not all(mask for mask, _, _ in found):
        raise SearchError(
            f"found no weight that rule {settings.rule!r} would shut; expected some; take "
            "rule='refine', more steps, or no guard"
        )
    return found
