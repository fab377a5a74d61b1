"""The rules that turn gradients into a mask; the settings say which.

``refine`` is what works. ``sum`` is the paper's Algorithm 1 to the letter and ``adam`` is its
Algorithm A2, both without a second look at weights that interact.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.loss import ImplantingLoss, Weights, together
from cones.search.refine import refine
from cones.search.resume import ALONE, Keeper
from cones.search.score import score_accelerated, score_sampled
from cones.search.select import top
from cones.search.settings import DENSITIES, Settings

# A mask, the scores that rank its neurons, and the last lambda.
Found: TypeAlias = tuple[Mask, Float[Tensor, " n"], float]


def candidates(
    losses: Sequence[ImplantingLoss],
    weights: Weights,
    settings: Settings,
    *,
    within: Mask | None = None,
    keeper: Keeper = ALONE,
) -> list[Found]:
    """Run the rule of the settings, for its density or for each of DENSITIES if that is open.

    Scoring and every refinement draw samples of their own.
    """
    drawn, refining = partial(together, losses, seed=settings.seed), settings.rule == "refine"
    lam = 0.0 if settings.prior == "none" else settings.prior_weight
    score = (score_sampled if settings.rule == "sum" else score_accelerated)(
        drawn(purpose="search-score"),
        weights,
        steps=settings.score_steps if refining else settings.steps,
        rate=settings.score_rate,
        prior_weight=lam,
        keeper=keeper,
    )
    exchange = partial(refine, weights=weights, settings=settings, within=within, keeper=keeper)
    found = []
    for density in DENSITIES if settings.density is None else (settings.density,):
        if refining:
            own = drawn(purpose=f"search-refine {density:.2%}")
            ranking = score.clone() if found else score  # what was found keeps its scores
            mask, score, lam = exchange(own, ranking=ranking, density=density, prior_weight=lam)
        else:
            mask = top(score, weights, density=density, guard=settings.guard, within=within)
        found.append((mask, score, lam))
    if not all(mask for mask, _, _ in found):
        raise SearchError(
            f"found no weight that rule {settings.rule!r} would shut; expected some; take "
            "rule='refine', more steps, or no guard"
        )
    return found
