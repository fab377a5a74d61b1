"""Learn the values of the concept neurons, all else frozen (Sec. 3.2, Fig. 3).

The paper optimises the concept-implanting loss on the concept neurons in several precisions and
freezes the rest. A value per neuron is kept in float32 and rounded in every forward pass; the
gradient passes the rounding as if it were not there (straight-through). Training starts at the
weights themselves, so that no step means the untouched model, rounded.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cones.find import Notify
from cones.gradient import Losses
from cones.intervention import Intervention
from cones.mask import ConceptMask
from cones.methods.loop import trained
from cones.precision import LEVELS, fitted_scale, require_precision, snapped, straight_through
from cones.select import require_match

SHUT = "shut"
STEPS, RATE = 200, 1e-3
_SCALE = "{} scale"


def optimised(
    losses: Losses,
    weights: Mapping[str, Tensor],
    mask: ConceptMask,
    *,
    precision: str = "float32",
    steps: int = STEPS,
    rate: float = RATE,
    notify: Notify | None = None,
) -> Intervention:
    """Lower the concept-implanting loss (Eq. 4) by the values of the neurons alone.

    Args:
        losses: Gives the loss of a step, e.g. ``lambda step: loss.at(step, seed=0)``.
        weights: All searched weights; not written to.
        mask: The neurons.
        precision: One of :data:`cones.precision.PRECISIONS`, whose levels have a scale per
            parameter that is learnt too; or ``shut``, all zero and nothing learnt.
        steps: Updates of AdamW; 0 rounds the weights themselves.
        rate: Learning rate, constant.
        notify: Called after every update.

    Returns:
        The neurons with their values, on the CPU in float32, exact in the precision.

    Raises:
        InterventionError: The precision is unknown.
        SearchError: Mask and weights are of different models, or a loss is not finite.
    """
    require_match(weights, mask.shapes)
    if precision == SHUT:
        return Intervention(mask)
    require_precision(precision)
    start = {name: gathered(weights[name], mask.indices[name]) for name in mask}
    if precision in LEVELS:
        start |= {_SCALE.format(n): fitted_scale(v, precision) for n, v in start.items()}

    def loss_of(leaves: dict[str, Tensor], step: int) -> Tensor:
        values = {n: straight_through(leaves[n], _scale(leaves, n), precision) for n in mask}
        return losses(step)(filled(weights, mask, values))

    label = f"values {precision}"
    learnt = trained(start, loss_of, steps=steps, rate=rate, label=label, notify=notify)
    values = {name: snapped(learnt[name], _scale(learnt, name), precision).cpu() for name in mask}
    return Intervention(mask, values)


def filled(
    weights: Mapping[str, Tensor], mask: ConceptMask, values: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Give a copy of the weights with values at the neurons, differentiable in the values.

    Args:
        weights: All searched weights; not written to.
        mask: The neurons.
        values: One per neuron, by parameter; None for zeros.
    """
    found = {}
    for name, weight in weights.items():
        at = mask.indices[name].to(weight.device)
        value = torch.zeros(len(at)) if values is None else values[name]
        flat = weight.detach().reshape(-1).index_copy(0, at, value.to(weight))
        found[name] = flat.view(weight.shape)
    return found


def gathered(weight: Tensor, index: Tensor) -> Float[Tensor, " neurons"]:
    """Copy what a weight holds at flat positions, in float32."""
    return weight.detach().reshape(-1)[index.to(weight.device)].float()


def _scale(leaves: Mapping[str, Tensor], name: str) -> Tensor:
    """Give the scale of a parameter's levels; a sign it may have crossed to means nothing."""
    scale = leaves.get(_SCALE.format(name))
    return leaves[name].new_zeros(()) if scale is None else scale.abs()
