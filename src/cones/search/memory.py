"""Say what a search costs before it starts, and fit it into the memory of its device.

One prediction of one sample tells: autograd offers what a gradient would keep, and nothing is
kept. What does not fit gives way in this order: samples at once, scores and moments (to the
computer's memory), activations (computed again, block by block). Only CUDA says what is free.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.flop_counter import FlopCounterMode

from cones.models.base import Model, Part
from cones.search.resume import Progress
from cones.search.settings import DENSITIES, Settings

CONTROLS = 6  # pictures behind each control of a certificate, one of every unseen noun
FREE = {"cuda": torch.cuda.mem_get_info}  # bytes that are free, and all, by kind of device
HOME = torch.device("cpu")  # where scores and moments lie if the device has no room
SPARE = 0.1  # of all: the work space of kernels
FLOWING = 1.05  # what is kept for a gradient, and what flows back at the same time
STATE = 16  # bytes for each searched weight: score, moments and gradient in float32
BACKWARD = 1.25  # operations of a backward pass, in those of a forward one
_FLAG = "gradient_checkpointing"  # of diffusers' blocks: compute the layers in you again


@dataclass(eq=False)
class Block:
    """Layers that are computed again together; in bytes for one sample."""

    part: Part
    kept: int = 0  # for a gradient
    given: int = 0  # from layer to layer: what is kept to compute them again
    largest: int = 0  # of what a single layer keeps


@dataclass(frozen=True, eq=False)
class Cost:
    """What one sample asks of the network."""

    device: torch.device
    flop: int  # operations of a forward pass
    outside: int  # bytes kept for a gradient outside of all blocks
    blocks: tuple[Block, ...]  # that save memory if computed again, in the order of the network

    def kept(self, again: int) -> int:
        """Count the bytes kept for a gradient if the first ``again`` blocks are recomputed."""
        first, rest = self.blocks[:again], self.blocks[again:]
        largest = max((block.largest for block in first), default=0)
        given = self.outside + sum(block.given for block in first)
        return given + max(largest, sum(block.kept for block in rest))

    def of(self, settings: Settings) -> float:
        """Estimate the operations of a whole search."""
        deep, shallow = passes(settings)
        return self.flop * (deep * (1 + BACKWARD) + shallow)


def passes(settings: Settings) -> tuple[int, int]:
    """Count the samples that a search sends through the network: with and without gradient."""
    masks = len(DENSITIES) if settings.density is None else 1
    steps, prior, drawn = settings.steps, 0, 2 * CONTROLS
    if settings.rule == "refine":
        steps = settings.score_steps + steps * masks
    if settings.prior != "none":
        prior, drawn = settings.prior_batch, drawn + settings.prior_count
    told = prior * steps if settings.prior == "agreement" else 0
    looks = 5.75 + (2 + 2 * masks) * (masks > 1)  # of a certificate, and of a choice among masks
    drawn *= 2 * settings.prior_steps  # guidance asks twice
    return steps * (settings.batch + prior), round(told + looks * settings.draws + drawn)


class _Listener:
    """Hears which layer is at work, and what autograd offers to keep for a gradient."""

    def __init__(self, network: nn.Module) -> None:
        """Find the layers that can be computed again, by the part that says so."""
        self.owners, self.blocks = dict[nn.Module, Part](), dict[Part, Block]()
        for part in (part for part in network.modules() if hasattr(part, _FLAG)):
            lists = [each for each in part.children() if isinstance(each, nn.ModuleList)]
            layers = [layer for each in lists for layer in each if not hasattr(layer, _FLAG)]
            self.owners |= dict.fromkeys(layers, part)
        self.open = [(Block(network), 0)]  # the block at work, and what it had kept before
        self.seen = WeakSet(each.untyped_storage() for each in network.parameters())

    def enter(self, layer: nn.Module, _: object) -> None:
        if part := self.owners.get(layer):
            block = self.blocks.setdefault(part, Block(part))
            self.open.append((block, block.kept))

    def leave(self, layer: nn.Module, _: object, output: object) -> None:
        if layer in self.owners:
            block, before = self.open.pop()
            block.largest = max(block.largest, block.kept - before)
            told = output if isinstance(output, tuple) else (output,)
            block.given += sum(each.nbytes for each in told if isinstance(each, Tensor))

    def offer(self, tensor: Tensor) -> None:
        if (storage := tensor.untyped_storage()) not in self.seen:
            self.seen.add(storage)
            self.open[-1][0].kept += storage.nbytes()


def measured(model: Model, prompt: str) -> Cost:
    """Predict for one sample, and take down what a gradient would keep and what was computed."""
    network, heard = model.module, _Listener(model.module)
    weights = {name: weight.detach().requires_grad_() for name, weight in model.weights().items()}
    times = model.timesteps(1, torch.Generator().manual_seed(0))
    inputs = torch.zeros(1, *model.latent_shape), times, model.condition([prompt])
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recomputing(network, ()))
        stack.enter_context(register_module_forward_pre_hook(heard.enter))
        stack.enter_context(register_module_forward_hook(heard.leave))
        counter = stack.enter_context(FlopCounterMode(display=False))
        stack.enter_context(saved_tensors_hooks(heard.offer, lambda _: torch.empty(0)))
        device = model.predict(weights, *inputs).device
    saving = tuple(block for block in heard.blocks.values() if block.kept > block.given)
    kept = sum(block.kept for block in (heard.open[0][0], *heard.blocks.values()))
    outside = kept - sum(block.kept for block in saving)
    return Cost(device, counter.get_total_flops(), outside, saving)


@contextmanager
def recomputing(network: Part, parts: Collection[Part]) -> Iterator[None]:
    """Let these parts of the network, and no others, compute their layers again."""
    flags = {part: getattr(part, _FLAG) for part in network.modules() if hasattr(part, _FLAG)}
    if parts and not any(flags.values()):
        network.enable_gradient_checkpointing()
    try:
        for part in flags:
            setattr(part, _FLAG, part in parts)
        yield
    finally:
        for part, flag in flags.items():
            setattr(part, _FLAG, flag)


@contextmanager
def fitted(
    model: Model, settings: Settings, cost: Cost, progress: Progress
) -> Iterator[tuple[Settings, dict[str, Tensor]]]:
    """Choose ``micro_batch``, what is computed again, and where the search has its weights.

    Scores and moments lie beside these weights. The first way that fits is taken, and told.
    """
    network, weights, asked = model.module, model.weights(settings.scope), settings.micro_batch
    if cost.device.type not in FREE:
        yield settings, weights
        return
    torch.cuda.empty_cache()
    sizes = [weight.nbytes for weight in weights.values()]
    free, total = FREE[cost.device.type](cost.device)
    free -= SPARE * total
    homes = (cost.device, HOME)
    if any(weight.device != cost.device for weight in weights.values()):  # offloaded
        free -= sum(parameter.nbytes for parameter in network.parameters())
        homes = (HOME,)
    own, every = bool(network.is_gradient_checkpointing), len(cost.blocks)
    again, home, state, fit = every, HOME, 0, 0
    for again, home in product(range(own * every, every + 1), homes):
        state = sum(sizes) + max(sizes)  # the shut weights, and the gradient of one
        if home != HOME:
            state = 3 * sum(sizes) + STATE * sum(weight.numel() for weight in weights.values())
        fit = int((free - state) / FLOWING / cost.kept(again))
        if fit >= (asked or 1):
            break
    count = asked or max(1, min(fit, max(settings.batch, settings.prior_batch)))
    need = (state + count * FLOWING * cost.kept(again)) / 1e9
    lies = "in the computer's memory" if home == HOME else "on the device"
    note = f"{count} samples at once, {again} of {every} blocks computed again, scores {lies}"
    progress("memory", 1, 1, f"{note}: {need:.1f} of {free / 1e9:.1f} GB")
    first = {block.part for block in cost.blocks[:again]}
    with nullcontext() if own else recomputing(network, first):
        at_home = {name: weight.to(home) for name, weight in weights.items()}
        yield replace(settings, micro_batch=count), at_home
