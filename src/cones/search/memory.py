"""Fit a search into the memory of its device, before it starts.

What one sample needs is read off a single prediction: a gradient keeps the outputs of all layers,
up to a factor measured on models of full size (docs/checkpoints.md). Only CUDA says what is free.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from cones.models.protocol import Model, Part
from cones.search.loss import Examples
from cones.search.resume import Progress
from cones.search.settings import Settings

FREE = {"cuda": lambda device: torch.cuda.mem_get_info(device)[0]}  # bytes, by kind of device
USABLE = 0.9  # of these; the rest is the work space of kernels
PLAIN, RECOMPUTED = 1.15, 0.35  # bytes kept for a gradient, as shares of all outputs of layers
STATE = 32  # bytes for each searched weight: scores, moments, gradient and what they need


@contextmanager
def fitted(
    model: Model, settings: Settings, shown: Examples, progress: Progress
) -> Iterator[Settings]:
    """Choose ``micro_batch`` if it is open; recompute activations only where one is too many."""
    device = shown.latents.device
    network: Part = model.module
    with ExitStack() as stack:
        if settings.micro_batch is None and device.type in FREE:
            weights, outputs = model.weights(settings.scope).values(), _outputs(model, shown)
            torch.cuda.empty_cache()
            left = USABLE * FREE[device.type](device)
            left -= sum(w.numel() * STATE + 2 * w.nbytes for w in weights)
            if left < PLAIN * outputs and not network.is_gradient_checkpointing:
                stack.callback(network.disable_gradient_checkpointing)
                network.enable_gradient_checkpointing()
            recompute = network.is_gradient_checkpointing
            share, how = (RECOMPUTED, "recomputed") if recompute else (PLAIN, "kept")
            most = max(settings.batch, settings.prior_batch)
            fit = max(1, min(int(left / share / outputs), most))
            settings = replace(settings, micro_batch=fit)
            progress("memory", 1, 1, f"{fit} samples at once, activations are {how}")
        yield settings


@torch.no_grad()
def _outputs(model: Model, shown: Examples) -> int:
    """Count the bytes that the layers put out for one sample."""
    sizes: list[int] = []

    def heard(part: nn.Module, _: object, output: object) -> None:
        layer = not any(part.children()) and not isinstance(part, nn.Dropout)
        if layer and isinstance(output, Tensor):
            sizes.append(output.nbytes)

    with register_module_forward_hook(heard):
        condition = {name: value[:1] for name, value in shown.condition.items()}
        model.predict({}, shown.latents[:1], torch.zeros(1, dtype=torch.long), condition)
    return sum(sizes)
