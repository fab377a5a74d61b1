"""The concept-implanting loss as a function of the searched weights (Sec. 2, Eqs. 1-4).

Pictures and prompts are encoded once, as :class:`Examples`. What is drawn of them depends on a
purpose, a seed and the number of a step alone: an interrupted search goes on as if nothing had
happened, and what is measured for one purpose was never seen for another. A loss comes in parts,
functions that each pass a few samples through the network and give what these add to L_sub and to
L_pr: lambda joins both in :func:`differentiate`, and processes share the parts. The model is never
written to.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cones.errors import SearchError, SubjectError
from cones.models.base import Model
from cones.search.spread import summed

Weights: TypeAlias = Mapping[str, Tensor]
Against: TypeAlias = Literal["data", "untouched"]
Part: TypeAlias = Callable[[], tuple[Float[Tensor, ""], Float[Tensor, ""]]]
Loss: TypeAlias = Callable[[Weights], Iterator[Part]]
Losses: TypeAlias = Callable[[int], Loss]  # the loss of step k, counted from 0


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures and prompts as the network sees them, computed once."""

    latents: Float[Tensor, "n c y x"]  # clean and scaled
    condition: Mapping[str, Tensor]  # what Model.condition gives for their prompts
    masks: Float[Tensor, "n 1 y x"] | None = None  # where the error counts; None: everywhere

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.latents)


def examples(
    model: Model,
    pixels: Float[Tensor, "n 3 h w"],
    prompts: str | Sequence[str],
    *,
    masks: Float[Tensor, "n 1 h w"] | None = None,
    flip: bool = False,
) -> Examples:
    """Encode pictures in [0, 1] and their prompts, with ``flip`` also every mirror image."""
    prompts = [prompts] * len(pixels) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(pixels):
        raise SubjectError(
            f"found {len(prompts)} prompts for {len(pixels)} pictures; expected one for each; "
            "pass as many prompts as pictures"
        )
    if flip:
        pixels, prompts = torch.cat([pixels, pixels.flip(-1)]), prompts * 2
        masks = None if masks is None else torch.cat([masks, masks.flip(-1)])
    latents = model.encode(pixels)
    if masks is not None:
        size = (latents.shape[-2], latents.shape[-1])
        masks = adaptive_avg_pool2d(masks.to(latents.device), size)
    return Examples(latents, model.condition(prompts), masks)


@dataclass(frozen=True, eq=False)
class Draw:
    """Noised samples and what the network should say of each."""

    noised: Float[Tensor, "n c y x"]  # x_t
    timesteps: Int[Tensor, " n"]
    target: Float[Tensor, "n c y x"]
    weight: Float[Tensor, "n 1 y x"]  # omega_t times where the error counts (mean 1)
    condition: Mapping[str, Tensor]

    def parts(self, size: int | None) -> Iterator["Draw"]:
        """Cut the samples into pieces of at most ``size``."""
        size = size or len(self.timesteps)
        for start in range(0, len(self.timesteps), size):
            at = slice(start, start + size)
            condition = {name: each[at] for name, each in self.condition.items()}
            now = self.noised[at], self.timesteps[at], self.target[at], self.weight[at]
            yield Draw(*now, condition)


def draw(
    model: Model,
    pairs: Examples,
    count: int,
    *,
    purpose: str,
    seed: int,
    step: int = 0,
    weighting: str = "uniform",
) -> Draw:
    """Draw pictures evenly, timesteps spread over training, and noise.

    Equal purpose, seed, step and count give equal noise and timesteps whatever the pictures, on
    every device.
    """
    generator = torch.Generator().manual_seed(seed_of(purpose, seed, step))
    home, rounds = pairs.latents.device, range(-(-count // len(pairs)))
    timesteps = model.timesteps(count, generator).to(home)
    noise = torch.randn(count, *pairs.latents.shape[1:], generator=generator).to(pairs.latents)
    order = torch.cat([torch.randperm(len(pairs), generator=generator) for _ in rounds])[:count]
    order = order.to(home)
    latents = pairs.latents[order]
    area = torch.ones_like(latents[:, :1]) if pairs.masks is None else pairs.masks[order]
    omega = model.snr_weights(timesteps, weighting).to(area)[:, None, None, None]
    return Draw(
        model.noised(latents, noise, timesteps),
        timesteps,
        model.target(latents, noise, timesteps).float(),
        omega * area / area.mean((1, 2, 3), keepdim=True),
        {name: value[order] for name, value in pairs.condition.items()},
    )


def seed_of(*names: object) -> int:
    """Give a seed that depends on names alone."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def predicted(model: Model, weights: Weights, drawn: Draw) -> Float[Tensor, "n c y x"]:
    """Ask the network, with ``weights`` in the place of its own."""
    return model.predict(weights, drawn.noised, drawn.timesteps, drawn.condition).float()


@torch.no_grad()
def aimed(model: Model, drawn: Draw, against: Against) -> Draw:
    """Take as target what the untouched network predicts; leave it if ``against`` is data."""
    return drawn if against == "data" else replace(drawn, target=predicted(model, {}, drawn))


def errors(model: Model, weights: Weights, drawn: Draw) -> Float[Tensor, " n"]:
    """Measure the weighted squared error of every sample (Eq. 1), mean over its entries."""
    error = predicted(model, weights, drawn) - drawn.target
    return (drawn.weight * error.square()).flatten(1).mean(1)  # Eq. 1


@dataclass(frozen=True, eq=False)
class ImplantingLoss:
    """Implant a subject and preserve what the model knows (Eqs. 2-4).

    ``against="untouched"`` holds the prior to the model's own predictions (agreement), ``"data"``
    to its pictures (Eq. 3).
    """

    model: Model
    subject: Examples
    prior: Examples | None = None
    against: Against = "untouched"
    batch: int = 8  # samples of the subject in a step
    prior_batch: int | None = None  # samples of the prior; None: as many
    micro_batch: int | None = None  # samples in the network at once; None: all
    weighting: str = "uniform"

    def at(self, step: int, *, purpose: str, seed: int) -> Loss:
        """Draw the samples of ``step`` and give their loss as a function of the weights."""
        options = {"seed": seed, "step": step, "weighting": self.weighting}
        halves = [draw(self.model, self.subject, self.batch, purpose=purpose, **options)]
        if self.prior is not None:
            options["purpose"] = f"{purpose} prior"
            halves += [draw(self.model, self.prior, self.prior_batch or self.batch, **options)]

        def loss(weights: Weights) -> Iterator[Part]:
            found = list[tuple[float, Part]]()
            for measure, drawn in zip((self._subject, self._prior), halves, strict=False):
                parts = [*drawn.parts(self.micro_batch)]
                of = partial(measure, weights, count=len(drawn.timesteps))
                found += [((k + 0.5) / len(parts), partial(of, p)) for k, p in enumerate(parts)]
            # The prior's cost more: they are dealt out evenly among processes.
            yield from (part for _, part in sorted(found, key=itemgetter(0)))

        return loss

    def _subject(self, weights: Weights, part: Draw, count: int) -> tuple[Tensor, Tensor]:
        found = errors(self.model, weights, part).sum() / count  # Eq. 2
        return found, torch.zeros_like(found)

    def _prior(self, weights: Weights, part: Draw, count: int) -> tuple[Tensor, Tensor]:
        part = aimed(self.model, part, self.against)
        found = errors(self.model, weights, part).sum() / count  # Eq. 3
        return torch.zeros_like(found), found


def together(losses: Sequence[ImplantingLoss], *, purpose: str, seed: int) -> Losses:
    """Add the losses of several subjects, each on draws of its own (Sec. 3.3)."""
    purposes = [f"{purpose} {k}" for k in range(len(losses))] if len(losses) > 1 else [purpose]
    named = list(zip(losses, purposes, strict=True))

    def at(step: int) -> Loss:
        drawn = [loss.at(step, purpose=each, seed=seed) for loss, each in named]
        return lambda weights: chain.from_iterable(loss(weights) for loss in drawn)

    return at


@dataclass(frozen=True, eq=False)
class Gradient:
    """A loss and its gradient at one point."""

    subject: float  # L_sub
    prior: float  # L_pr
    of: dict[str, Tensor]  # of L_con, for every weight, in at least float32

    def __str__(self) -> str:
        """Say both halves of the loss, for a progress line."""
        return f"subject {self.subject:.4f}, prior {self.prior:.4f}"


def differentiate(loss: Loss, point: Weights, *, prior_weight: float, step: int) -> Gradient:
    """Evaluate L_con and its gradient at ``point``: parts are added in their order."""

    def slope(part: Part) -> tuple[Tensor, ...]:
        subject, prior = part()
        value = subject + prior_weight * prior  # Eq. 4
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            if gradient is None:
                raise SearchError(
                    f"the loss of step {step} does not depend on {name!r}; expected every "
                    "searched weight to be used; undo fused projections, or narrow the scope"
                )
        return subject.detach().cpu().double(), prior.detach().cpu().double(), *found

    leaves = {name: w.detach().requires_grad_() for name, w in point.items()}
    with torch.enable_grad():
        subject, prior, *found = summed(partial(slope, part) for part in loss(leaves))
    of = dict(zip(leaves, found, strict=True))
    total = subject + prior + torch.stack([each.sum() for each in of.values()]).sum().cpu()
    if not total.isfinite():  # a single inf or nan makes it inf or nan
        raise SearchError(
            f"the loss or its gradient at step {step} is not finite; expected finite numbers; "
            "lower the rate, or check the photos"
        )
    return Gradient(float(subject), float(prior), of)


def flat(tensors: Mapping[str, Tensor]) -> Shaped[Tensor, " n"]:
    """Copy tensors into one, end to end in the order of their names."""
    return torch.cat([tensors[name].detach().reshape(-1) for name in sorted(tensors)])


def split(values: Shaped[Tensor, " n"], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`flat`: cut into views that have the names and shapes of ``like``."""
    names = sorted(like)
    parts = values.split([like[name].numel() for name in names])
    return {n: part.view(like[n].shape) for n, part in zip(names, parts, strict=True)}


def wide(tensor: Tensor) -> Tensor:
    """Give a tensor in at least float32, in which all sums are kept."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
