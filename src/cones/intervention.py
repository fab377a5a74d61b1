"""What to write at the concept neurons, and how to take it back bit for bit.

``with shut(unet, mask):`` is the whole editor: ``theta`` becomes ``M * theta`` (Sec. 3.2) while
the context is open. Writes are in place on the parameters themselves: a compiled model is not
compiled again, and only the touched entries are copied. Restoring is a copy, never arithmetic.
Contexts may overlap and end in any order; when the last one over a weight is gone, its bits are
what they were before the first. One thread at a time may change a model: another is refused.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from cones.errors import InterventionError, MaskError
from cones.mask import Mask

WRITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(eq=False)
class _Layer:
    """One intervention on one parameter: where it wrote, and what was there before."""

    positions: Int64[Tensor, " neurons"]
    saved: Float[Tensor, " neurons"]


_LOCK = threading.RLock()  # held while weights are written, not while a context is open
# Every open context: who opened it, and the ids of all parameters of its module.
_USES: list[tuple[threading.Thread, frozenset[int]]] = []
# The layers now lying on each parameter, oldest first: lets them be lifted in any order.
_LAYERS = WeakTensorKeyDictionary()


def shut(module: nn.Module, mask: Mask, *, strength: float = 1.0) -> AbstractContextManager[None]:
    """Shut the concept neurons while the context is open (``M * theta``, Sec. 3.2).

    Args:
        module: What holds the parameters of the mask, such as ``pipeline.unet``.
        mask: The concept neurons.
        strength: 1 writes 0, smaller values shrink to ``(1 - strength) * theta``.

    Raises:
        MaskError: ``module`` lacks a parameter of ``mask`` or holds it in another shape.
        InterventionError: A weight cannot be written, or another thread has changed this
            module. Nothing has been changed in either case.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> with shut(layer, Mask({"weight": (1, 2)}, {"weight": torch.tensor([1])})):
        ...     layer.weight[0, 1].item()
        0.0
    """
    return Intervention(mask, strength=strength).applied(module)


@dataclass(frozen=True, eq=False)
class Intervention:
    """A mask and what to write there: ``theta + strength * (value - theta)``.

    Attributes:
        mask: The concept neurons.
        values: One value per neuron, by parameter name, in the order of ``mask.indices``. None
            is zero everywhere, which is shutting.
        strength: 0 changes nothing, 1 writes the values themselves; others interpolate or
            extrapolate, rounded once to the dtype of the model.

    Raises:
        InterventionError: Values do not match the mask, or ``strength`` is not finite.
    """

    mask: Mask
    values: Mapping[str, Float[Tensor, " _"]] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that do not match the mask."""
        if not math.isfinite(self.strength):
            raise InterventionError(
                f"strength is {self.strength}; expected a finite number; 1 shuts completely"
            )
        expected = {name: (len(index),) for name, index in self.mask.indices.items()}
        found = {name: tuple(value.shape) for name, value in (self.values or {}).items()}
        if self.values is not None and found != expected:
            names = expected.keys() | found.keys()
            odd = min(name for name in names if expected.get(name) != found.get(name))
            raise InterventionError(
                f"values of {odd!r} have shape {found.get(odd, 'absent')}; expected "
                f"{expected.get(odd, 'absent')}; give one value per neuron of the mask"
            )

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Write on entering, restore the exact bits on leaving; raises what :func:`shut` does."""
        layers: list[tuple[Tensor, _Layer]] = []
        with _LOCK:
            weights = _writable(module, self.mask)
            use = _claimed(module)
        try:
            with _LOCK, torch.no_grad():
                for name, weight in weights.items():
                    positions = self.mask.indices[name].to(weight.device)
                    layer = _Layer(positions, weight.detach().reshape(-1)[positions])
                    _LAYERS[weight] = [*(_LAYERS.get(weight) or []), layer]
                    layers.append((weight, layer))
                    _write(weight, positions, self._written(name, layer.saved))
            yield
        finally:
            with _LOCK, torch.no_grad():
                _USES.remove(use)
                while layers:
                    weight, layer = layers.pop()
                    _write(weight, *_lifted(weight, layer))

    def _written(self, name: str, theta: Tensor) -> Tensor:
        value = torch.zeros_like(theta)
        if self.values is not None:
            value = self.values[name].to(theta.device)
        if self.strength in (0, 1):  # exact, where theta is not finite too
            return value if self.strength else theta
        wide = torch.promote_types(theta.dtype, torch.float32)
        return theta.to(wide).lerp(value.to(wide), self.strength)


def _writable(module: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Collect the parameters of ``mask``, or refuse before anything has been written."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    weights = dict(module.named_parameters(remove_duplicate=False))
    for name, shape in mask.shapes.items():
        weight = weights.get(name)
        found = "absent" if weight is None else tuple(weight.shape)
        if weight is None or found != shape:
            raise MaskError(
                f"{name!r} is {found} in the model; expected shape {shape} as in the mask; load "
                "the base model this mask was searched on, without adapters or fused projections"
            )
        kind = type(weight.detach())
        frozen = weight.is_inference() and not torch.is_inference_mode_enabled()
        odd = kind is not Tensor or weight.is_meta or 0 in weight.stride() or frozen
        if odd or weight.dtype not in WRITABLE:
            raise InterventionError(
                f"{name!r} is a {kind.__name__} of {weight.dtype} on {weight.device}, inference "
                f"mode {frozen}; expected an ordinary floating-point weight; load the model in "
                "float32, float16 or bfloat16, without sequential offloading or quantisation"
            )
    return {name: weights[name] for name in mask}


def _claimed(module: nn.Module) -> tuple[threading.Thread, frozenset[int]]:
    """Note that this thread changes ``module``, or refuse if another thread does."""
    thread, parameters = threading.current_thread(), frozenset(map(id, module.parameters()))
    for other, taken in _USES:
        if other is not thread and taken & parameters:
            raise InterventionError(
                f"the model is already changed by thread {other.name!r}; expected one thread at a "
                "time; wait until its context has ended, or give each thread its own model"
            )
    _USES.append((thread, parameters))
    return _USES[-1]


def _write(weight: Tensor, positions: Tensor, values: Tensor) -> None:
    """Copy ``values`` to flat row-major ``positions`` of ``weight`` itself."""
    positions, values = positions.to(weight.device), values.to(weight)
    weight = weight.detach()  # shares the version counter: a stale backward pass is refused
    weight[torch.unravel_index(positions, weight.shape)] = values


def _lifted(weight: Tensor, layer: _Layer) -> tuple[Tensor, Tensor]:
    """Take a layer off its stack: later layers inherit what they cover, the rest is returned."""
    stack = _LAYERS[weight]
    at = stack.index(layer)
    positions, saved = layer.positions, layer.saved
    for later in stack[at + 1 :]:
        covered = torch.isin(positions, later.positions, assume_unique=True)
        heirs = torch.searchsorted(later.positions, positions[covered])
        later.saved[heirs] = saved[covered]
        positions, saved = positions[~covered], saved[~covered]
    del stack[at]
    return positions, saved
