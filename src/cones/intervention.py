"""What to write at the concept neurons, and how to take it back bit for bit.

``with shut(unet, mask):`` is the whole editor: ``theta`` becomes ``M * theta`` (Sec. 3.2) while
the context is open. Writes are in place on the parameters themselves, so a compiled model is not
compiled again and no second copy of the weights is made: only the touched entries are saved, and
restoring is a copy, never arithmetic. Interventions may overlap and end in any order; when the
last one over a weight is gone, its bits are what they were before the first. Not thread-safe.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from cones.errors import InterventionError, MaskError
from cones.mask import ConceptMask

WRITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(eq=False)
class _Layer:
    """One intervention on one parameter: where it wrote, and what was there before."""

    positions: Int64[Tensor, " neurons"]
    saved: Float[Tensor, " neurons"]


# The layers now lying on each parameter, oldest first: lets them be lifted in any order.
_LAYERS = WeakTensorKeyDictionary()


def shut(
    module: nn.Module, mask: ConceptMask, *, strength: float = 1.0
) -> AbstractContextManager[None]:
    """Shut the concept neurons while the context is open (``M * theta``, Sec. 3.2).

    Args:
        module: What holds the parameters of the mask, e.g. ``pipeline.unet``.
        mask: The concept neurons.
        strength: 1 writes +0.0, smaller values shrink to ``(1 - strength) * theta``.

    Raises:
        MaskError: ``module`` lacks a parameter of ``mask`` or holds it in another shape. Nothing
            has been changed in that case.
        InterventionError: A parameter cannot be written. Nothing has been changed either.
    """
    return Intervention(mask, strength=strength).applied(module)


@dataclass(frozen=True, eq=False)
class Intervention:
    """A mask and what to write there: ``theta + strength * (value - theta)``.

    ``a | b`` joins two interventions of equal strength into one write; where both hold a neuron,
    their values must agree.

    Attributes:
        mask: The concept neurons.
        values: One value per neuron, by parameter name, in the order of ``mask.indices``. None
            is zero everywhere, which is shutting.
        strength: 0 changes nothing, 1 writes the values themselves; others interpolate or
            extrapolate, rounded once to the dtype of the model.

    Raises:
        InterventionError: Values do not match the mask, or ``strength`` is not finite.
    """

    mask: ConceptMask
    values: Mapping[str, Float[Tensor, " neurons"]] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that do not match the mask."""
        if not math.isfinite(self.strength):
            raise InterventionError(
                f"strength is {self.strength}, expected a finite number; 1 shuts completely"
            )
        if self.values is None:
            return
        counts = {name: (len(index),) for name, index in self.mask.indices.items()}
        found = {name: tuple(value.shape) for name, value in self.values.items()}
        if counts != found:
            odd = sorted(n for n in counts.keys() | found if counts.get(n) != found.get(n))[0]
            raise InterventionError(
                f"values of {odd!r} have shape {found.get(odd, 'absent')}, expected "
                f"{counts.get(odd, 'absent')}; give one value per neuron of the mask"
            )

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Write on entering and restore the exact bits on leaving, also after an exception.

        Raises:
            MaskError: ``module`` lacks a parameter of the mask or holds it in another shape.
            InterventionError: A parameter cannot be written. Nothing has been changed either way.
        """
        applied = self.apply(module)
        try:
            yield
        finally:
            applied.remove()

    def apply(self, module: nn.Module) -> "Applied":
        """Write now and until :meth:`Applied.remove`; raises what :meth:`applied` does."""
        weights = _writable(module, self.mask)
        applied = Applied()
        try:
            for name, weight in weights.items():
                layer = _gathered(weight, self.mask.indices[name])
                applied._layers.append((weight, layer))
                _LAYERS.setdefault(weight, []).append(layer)
                _write(weight, layer.positions, self._written(name, layer.saved))
        except BaseException:
            applied.remove()
            raise
        return applied

    def __or__(self, other: "Intervention") -> "Intervention":
        """Join two interventions into one (Sec. 3.2).

        Raises:
            MaskError: The masks are of different models.
            InterventionError: Strengths differ, or values differ where both hold a neuron.
        """
        if not isinstance(other, Intervention):
            return NotImplemented
        if self.strength != other.strength:
            raise InterventionError(
                f"strengths are {self.strength} and {other.strength}, expected one strength for "
                "a union; apply the two one inside the other instead"
            )
        union = self.mask | other.mask
        if self.values is None and other.values is None:
            return Intervention(union, strength=self.strength)
        values = {name: _joined(name, self, other, union) for name in union}
        return Intervention(union, values, self.strength)

    def values_of(self, name: str) -> Float[Tensor, " neurons"]:
        """Return the values to write into one parameter, zeros for shutting."""
        if self.values is None:
            return torch.zeros(len(self.mask.indices[name]))
        return self.values[name]

    def _written(self, name: str, theta: Tensor) -> Tensor:
        value = self.values_of(name).to(theta.device)
        if self.strength == 1:
            return value.to(theta.dtype)
        if self.strength == 0:
            return theta
        wide = torch.promote_types(theta.dtype, torch.float32)
        mixed = theta.to(wide).lerp(value.to(wide), self.strength)
        return mixed.to(theta.dtype)


@dataclass(eq=False)
class Applied:
    """An intervention that is in force, as returned by :meth:`Intervention.apply`."""

    _layers: list[tuple[Tensor, _Layer]] = field(default_factory=list)

    def remove(self) -> None:
        """Restore the exact bits; a second call does nothing.

        Where a later intervention lies over this one, its values stay and it will restore what
        this one would have.
        """
        while self._layers:
            weight, layer = self._layers.pop()
            positions, saved = _lifted(weight, layer)
            _write(weight, positions, saved)


def _writable(module: nn.Module, mask: ConceptMask) -> dict[str, Tensor]:
    """Collect the parameters of ``mask``, or refuse before anything has been written."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    weights = dict(module.named_parameters(remove_duplicate=False))
    for name, shape in mask.shapes.items():
        weight = weights.get(name)
        problem = None if weight is None else _problem(weight)
        if problem:
            raise InterventionError(
                f"{name!r} {problem}; expected an ordinary floating-point weight; load the model "
                "in float32, float16 or bfloat16, without offloading or quantisation"
            )
        found = "absent" if weight is None else tuple(weight.shape)
        if found != shape:
            raise MaskError(
                f"the model has {name!r} {found}, the mask expects it of shape {shape}; load the "
                "base model this mask was searched on, without adapters or fused projections"
            )
    return {name: weights[name] for name in mask}


def _problem(weight: Tensor) -> str | None:
    """Say why a weight cannot be written in place, if so."""
    if is_lazy(weight):
        return "is not initialised yet"
    if weight.device.type == "meta":
        return "is on the meta device and holds no numbers"
    if weight.dtype not in WRITABLE:
        return f"is {weight.dtype}"
    if type(weight.detach()) is not Tensor:
        return f"is a {type(weight.detach()).__name__}"
    if any(
        step == 0 and size > 1 for step, size in zip(weight.stride(), weight.shape, strict=True)
    ):
        return "repeats one number in memory"
    if weight.is_inference() and not torch.is_inference_mode_enabled():
        return "was made in inference mode"
    return None


@torch.no_grad()
def _gathered(weight: Tensor, index: Tensor) -> _Layer:
    """Save what is at ``index``."""
    positions = index.to(weight.device)
    return _Layer(positions, weight.detach().reshape(-1).index_select(0, positions))


@torch.no_grad()
def _write(weight: Tensor, positions: Tensor, values: Tensor) -> None:
    """Copy ``values`` to flat row-major ``positions`` of ``weight`` itself."""
    positions, values = positions.to(weight.device), values.to(weight)
    weight = weight.detach()  # shares the version counter: a stale backward pass is refused
    if weight.is_contiguous():
        weight.view(-1).index_copy_(0, positions, values)
    else:
        weight[torch.unravel_index(positions, weight.shape)] = values


def _lifted(weight: Tensor, layer: _Layer) -> tuple[Tensor, Tensor]:
    """Take a layer off its stack: later layers inherit what they cover, the rest is returned."""
    stack = _LAYERS[weight]
    at = next(i for i, other in enumerate(stack) if other is layer)
    positions, saved = layer.positions, layer.saved
    for later in stack[at + 1 :]:
        covered = torch.isin(positions, later.positions, assume_unique=True)
        heirs = torch.searchsorted(later.positions, positions[covered])
        later.saved[heirs] = saved[covered]
        positions, saved = positions[~covered], saved[~covered]
    del stack[at]
    if not stack:
        del _LAYERS[weight]
    return positions, saved


def _joined(name: str, a: Intervention, b: Intervention, union: ConceptMask) -> Tensor:
    """Lay the values of two interventions over the union of their masks."""
    index = union.indices[name]
    first, second = a.values_of(name).cpu(), b.values_of(name).cpu()
    values = torch.zeros(len(index), dtype=torch.promote_types(first.dtype, second.dtype))
    values[torch.searchsorted(index, a.mask.indices[name])] = first.to(values.dtype)
    theirs = torch.searchsorted(index, b.mask.indices[name])
    shared = torch.isin(b.mask.indices[name], a.mask.indices[name], assume_unique=True)
    second = second.to(values.dtype)
    if not values[theirs[shared]].equal(second[shared]):
        raise InterventionError(
            f"the two interventions write different values to the same neurons of {name!r}; "
            "expected equal ones; subtract one mask from the other first"
        )
    values[theirs] = second
    return values
