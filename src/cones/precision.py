"""How exactly the values of concept neurons are kept: the quantisers of Fig. 3 (Sec. 3.2).

The paper names float32, float16, quaternary and binary and says no more, but that its binary is
shutting, which needs no values. Here quaternary is four evenly spaced levels and binary is two,
symmetric about zero, times one scale per parameter. How values are learnt is
:mod:`cones.values`; how they are written into a file is :mod:`cones.codecs.numbers`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cones.errors import InterventionError

LEVELS: dict[str, tuple[float, ...]] = {"quaternary": (-1, -1 / 3, 1 / 3, 1), "binary": (-1, 1)}
PRECISIONS = ("float32", "float16", *LEVELS)
_LARGEST = torch.finfo(torch.float16).max
_ROUNDS = 30  # of the fit of a scale, which settles long before


def require_precision(name: str) -> None:
    """Refuse an unknown precision.

    Raises:
        InterventionError: It is none of :data:`PRECISIONS`.
    """
    if name not in PRECISIONS:
        raise InterventionError(
            f"found precision {name!r}; expected one of {', '.join(PRECISIONS)}; choose one"
        )


def codes(
    values: Float[Tensor, " n"], scale: Float[Tensor, ""], precision: str
) -> UInt8[Tensor, " n"]:
    """Number the nearest level of each value, from the lowest; a tie goes to the lower."""
    levels = _levels(precision, values)
    between = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(values, between * scale).to(torch.uint8)


def decoded(
    numbers: UInt8[Tensor, " n"], scale: Float[Tensor, ""], precision: str
) -> Float[Tensor, " n"]:
    """Give the values of numbered levels."""
    return _levels(precision, scale)[numbers.long()] * scale


def snapped(
    values: Float[Tensor, " n"], scale: Float[Tensor, ""], precision: str
) -> Float[Tensor, " n"]:
    """Round float32 values to what a precision can hold; those too large get its largest.

    Differentiable in ``scale`` alone, with the level of each value held: the exact gradient.

    Args:
        values: To be rounded.
        scale: Of the levels, at least 0; the floating-point precisions have no use for it.
        precision: One of :data:`PRECISIONS`.
    """
    values = values.detach()
    if precision in LEVELS:
        return decoded(codes(values, scale.detach(), precision), scale, precision)
    if precision == "float16":
        return values.clamp(-_LARGEST, _LARGEST).half().float()
    return values


def straight_through(
    values: Float[Tensor, " n"], scale: Float[Tensor, ""], precision: str
) -> Float[Tensor, " n"]:
    """Give what :func:`snapped` gives, as if it were the identity to the gradient of values."""
    return snapped(values, scale, precision) + (values - values.detach())


def fitted_scale(values: Float[Tensor, " n"], precision: str) -> Float[Tensor, ""]:
    """Give the scale with the least squared error, levels and scale in turn (Lloyd)."""
    if precision not in LEVELS or not len(values):
        return values.new_zeros(())
    scale = values.abs().mean()
    for _ in range(_ROUNDS):
        level = _levels(precision, values)[codes(values, scale, precision).long()]
        scale = (values * level).sum() / level.square().sum()
    return scale


def largest(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Give the largest magnitude: a scale that writes rounded values again, bit for bit."""
    return values.abs().amax() if len(values) else values.new_zeros(())


@dataclass(frozen=True, eq=False)
class Values:
    """The values of a concept's neurons, and the precision that holds them exactly.

    Attributes:
        precision: One of :data:`PRECISIONS`.
        numbers: By parameter, one float32 value per neuron in the order of the mask.

    Raises:
        InterventionError: The precision is unknown, or cannot hold a value.
    """

    precision: str
    numbers: Mapping[str, Float[Tensor, " neurons"]]

    def __post_init__(self) -> None:
        """Refuse what a file could not give back."""
        require_precision(self.precision)
        numbers = {name: v.detach().cpu().float() for name, v in self.numbers.items()}
        for name, value in numbers.items():
            kept = snapped(value, largest(value), self.precision)
            if not bool(value.isfinite().all()) or not kept.equal(value):
                raise InterventionError(
                    f"found values of {name!r} that {self.precision} does not hold; expected "
                    "finite ones, rounded to it; round them with cones.precision.snapped"
                )
        object.__setattr__(self, "numbers", numbers)

    @property
    def digest(self) -> str:
        """SHA-256 over precision, names and values."""
        sha = hashlib.sha256(self.precision.encode())
        for name in sorted(self.numbers):
            value = self.numbers[name]
            sha.update(repr((name, len(value))).encode())
            sha.update(value.numpy().astype("<f4", copy=False).tobytes())
        return sha.hexdigest()


def _levels(precision: str, like: Tensor) -> Float[Tensor, " levels"]:
    return torch.tensor(LEVELS[precision], dtype=torch.float32, device=like.device)
