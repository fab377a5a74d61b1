"""Erase a noun: shut the weights whose closing *raises* its loss (see docs/erase.md).

The search is that of a subject with the sign turned: its loss is the negative of that of ``a cat``
on pictures of cats. Nothing keeps such a loss from being lowered by breaking the model as a whole,
so a second loss, of pictures of other nouns, can be added with its sign as it is.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cones.backbones import backbone_for
from cones.find import Settings, find_levels
from cones.mask import ConceptMask
from cones.objective import Examples, ImplantingLoss, Loss, Weights


@dataclass(frozen=True, eq=False)
class ErasingLoss:
    """Raise the loss of one set of pictures, and keep that of another: ``-L_noun + w L_kept``.

    Attributes:
        erased: Whose loss is to rise.
        kept: Whose loss is to stay low, or None.
        weight: ``w``.
    """

    erased: ImplantingLoss
    kept: ImplantingLoss | None = None
    weight: float = 1.0

    def at(self, step: int, *, seed: int) -> Loss:
        """Draw the samples of ``step``, as :meth:`ImplantingLoss.at` does."""
        erased = self.erased.at(step, seed=seed)
        if self.kept is None:
            return lambda weights: -erased(weights)
        kept = self.kept.at(step, seed=seed)

        def loss(weights: Weights) -> Tensor:
            return self.weight * kept(weights) - erased(weights)

        return loss


def erase(
    pipeline: Any, erased: Examples, settings: Settings, *, kept: Examples | None = None
) -> tuple[ConceptMask, ...]:
    """Search the neurons whose closing raises the loss of pictures with their prompts.

    Args:
        pipeline: Text-to-image pipeline; its U-Net is not changed.
        erased: Pairs of what is to be erased.
        settings: How to search, as for :func:`cones.find.find`; ``prior_weight`` is the weight of
            ``kept``.
        kept: Pairs that the model should go on drawing; None lets everything go.

    Returns:
        Nested masks, sparse to dense. Nothing says yet that they erase anything: measure it.

    Raises:
        SearchError: Of the search.
    """
    backbone = backbone_for(pipeline)
    options = {"weighting": settings.weighting, "batch": settings.batch}
    loss = ErasingLoss(
        ImplantingLoss(backbone, erased, **options),
        None if kept is None else ImplantingLoss(backbone, kept, **options),
        settings.prior_weight,
    )
    return find_levels(loss, backbone.weights(settings.scope), settings)
