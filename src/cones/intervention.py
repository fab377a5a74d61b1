"""Write zeros at the concept neurons, and take them back bit for bit.

``with shut(unet, mask):`` is the whole editor: ``theta`` becomes ``M * theta`` (Sec. 3.2) while
the context is open. Writes are in place on the parameters themselves: a compiled model is not
compiled again, and only the touched entries are copied. Restoring is a copy, never arithmetic.
Contexts may overlap and end in any order; when the last one over a weight is gone, its bits are
what they were before the first. One thread at a time may change a model: another is refused.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cones.errors import InterventionError, MaskError
from cones.mask import Mask

WRITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(eq=False)
class _Change:
    """An open context: what it changes, and what was there before."""

    weights: Mapping[str, Tensor]
    mask: Mask
    strength: float
    parameters: frozenset[int]  # ids of all parameters of the module
    thread: threading.Thread = field(default_factory=threading.current_thread)
    saved: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for other in _OPEN:
            if other.thread is not self.thread and other.parameters & self.parameters:
                raise InterventionError(
                    f"the model is already changed by thread {other.thread.name!r}; expected one "
                    "thread at a time; wait until its context has ended, or give each its own "
                    "model"
                )

    def write(self) -> None:
        for name, weight in self.weights.items():
            positions = self.mask.indices[name]
            theta = weight.detach().reshape(-1)[positions.to(weight.device)]
            self.saved.append((weight, positions, theta))
            _put(weight, positions, _shrunk(theta, self.strength))

    def restore(self) -> None:
        while self.saved:
            _put(*self.saved.pop())  # the last first, as weights may be tied


_OPEN: list[_Change] = []  # oldest first
_LOCK = threading.Lock()  # held while _OPEN or weights are written, not while a context is open


@contextmanager
def shut(module: nn.Module, mask: Mask, *, strength: float = 1.0) -> Iterator[None]:
    """Shut the concept neurons while the context is open (``M * theta``, Sec. 3.2).

    Args:
        module: What holds the parameters of the mask, such as ``pipeline.unet``.
        mask: The concept neurons.
        strength: 1 writes 0, others ``(1 - strength) * theta``, rounded once to the weight's
            dtype; 0 changes nothing.

    Raises:
        MaskError: ``module`` lacks a parameter of ``mask`` or holds it in another shape.
        InterventionError: ``strength`` is not finite, a weight cannot be written, or another
            thread has changed this module. Nothing has been changed in any of these cases.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> with shut(layer, Mask({"weight": (1, 2)}, {"weight": torch.tensor([1])})):
        ...     layer.weight[0, 1].item()
        0.0
    """
    if not math.isfinite(strength):
        raise InterventionError(
            f"strength is {strength}; expected a finite number; 1 shuts completely"
        )
    with _LOCK:
        weights = _writable(module, mask)
        change = _Change(weights, mask, strength, frozenset(map(id, module.parameters())))
        _OPEN.append(change)
    try:
        with _LOCK:
            change.write()
        yield
    finally:
        with _LOCK:
            _undo(change)


@contextmanager
def shut_each(
    module: nn.Module, samples: Sequence[Sequence[tuple[Mask, float]]]
) -> Iterator[None]:
    """Shut other neurons in every sample of a batch while the context is open.

    ``samples`` are masks and strengths for each. Row ``k`` of a batch is of sample ``k % n``, also
    where guidance makes it longer. A sample meets the weights that nested :func:`shut` would give
    it alone, to the bit. Those of the module are not written to: the layers hold one copy for each
    sample. A module that was compiled does not notice. Only weights of linear layers can differ.
    """
    if all(each == samples[0] for each in samples):
        with _all_shut(module, samples[0] if samples else ()):
            yield
        return
    layers = {
        f"{name}.weight".replace(".base_layer.", "."): layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }
    names = dict.fromkeys(name for each in samples for mask, _ in each for name in mask)
    if other := [name for name in names if name not in layers]:
        raise InterventionError(
            f"{other[0]!r} is of no linear layer; expected one where samples differ; draw them "
            "one by one"
        )
    own: dict[str, list[Tensor]] = {name: [] for name in names}
    for each in samples:
        with _all_shut(module, each):
            for name, weights in own.items():
                weights.append(layers[name].weight.detach().mT.clone())
    with ExitStack() as stack:
        for name in names:
            stack.callback(_set_forward, layers[name], vars(layers[name]).get("forward"))
            _set_forward(layers[name], _per_sample(layers[name].bias, torch.stack(own.pop(name))))
        yield


@contextmanager
def _all_shut(module: nn.Module, masks: Sequence[tuple[Mask, float]]) -> Iterator[None]:
    with ExitStack() as stack:
        for mask, strength in masks:
            stack.enter_context(shut(module, mask, strength=strength))
        yield


def _set_forward(layer: nn.Module, forward: Callable[..., Tensor] | None) -> None:
    """Give a layer a forward of its own, or none."""
    vars(layer).pop("forward", None)
    if forward is not None:
        layer.forward = forward


def _per_sample(
    bias: Tensor | None, weights: Float[Tensor, "n inputs outputs"]
) -> Callable[..., Tensor]:
    """Give a linear layer's forward with other weights for every sample."""
    n = len(weights)

    def forward(rows: Float[Tensor, "batch length inputs"]) -> Tensor:
        nonlocal weights
        if len(rows) % n:
            raise InterventionError(
                f"found a batch of {len(rows)}; expected a multiple of {n} samples; draw them one "
                "by one"
            )
        weights = weights.to(rows.device)  # the model may have been moved since
        parts = [torch.bmm(part, weights) for part in rows.split(n)]
        return torch.cat(parts) if bias is None else torch.cat(parts) + bias

    return forward


def _undo(change: _Change) -> None:
    """Take back a change, also from under those that were made since."""
    since = _OPEN[_OPEN.index(change) + 1 :]
    since = [each for each in since if each.parameters & change.parameters]
    for each in [*reversed(since), change]:
        each.restore()
    _OPEN.remove(change)
    for each in since:
        each.write()


def _shrunk(theta: Tensor, strength: float) -> Tensor:
    if strength in (0, 1):  # exact, where theta is not finite too
        return torch.zeros_like(theta) if strength else theta
    return theta.to(torch.promote_types(theta.dtype, torch.float32)) * (1 - strength)


def _writable(module: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """Collect the parameters of ``mask``, or refuse before anything has been written."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    live = module.named_parameters(remove_duplicate=False)
    weights = {name.replace(".base_layer.", "."): weight for name, weight in live}  # below a LoRA
    for name, shape in mask.shapes.items():
        weight = weights.get(name)
        found = "absent" if weight is None else tuple(weight.shape)
        if weight is None or found != shape:
            raise MaskError(
                f"{name!r} is {found} in the model; expected shape {shape} as in the mask; load "
                "the base model this mask was searched on, without adapters or fused projections"
            )
        require_writable(name, weight)
    return {name: weights[name] for name in mask}


def require_writable(name: str, weight: Tensor) -> None:
    """Refuse weights that are quantised, offloaded, expanded or made in inference mode."""
    kind = type(weight.detach())
    frozen = weight.is_inference() and not torch.is_inference_mode_enabled()
    odd = kind is not Tensor or weight.is_meta or 0 in weight.stride() or frozen
    if odd or weight.dtype not in WRITABLE:
        raise InterventionError(
            f"{name!r} is a {kind.__name__} of {weight.dtype} on {weight.device}, inference mode "
            f"{frozen}; expected an ordinary floating-point weight in memory; load the model in "
            "float32, float16 or bfloat16, without quantisation or layerwise casting, and "
            "offload='model' in the place of sequential offloading"
        )


def _put(weight: Tensor, positions: Tensor, values: Tensor) -> None:
    """Copy ``values`` to flat row-major ``positions`` of ``weight`` itself."""
    places = torch.unravel_index(positions.to(weight.device), weight.shape)
    weight.detach()[places] = values.to(weight)  # counts as a write: stale backwards are refused
