"""The concept-implanting loss as a function of the searched weights (Sec. 2, Eqs. 2-4).

Pictures and prompts are encoded once, as :class:`Examples`. What is drawn at a step (pictures,
timesteps, noise) depends on the seed and the number of the step alone, so an interrupted search
goes on as if nothing had happened; the samples of :meth:`ImplantingLoss.parts` come from another
stream, are the same on every call, and are never those of a search.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cones.backbones import Backbone
from cones.errors import SubjectError
from cones.subject import Subject

Weights: TypeAlias = Mapping[str, Tensor]
Loss: TypeAlias = Callable[[Weights], Float[Tensor, ""]]
SEARCH, HELD_OUT = "search", "held-out"


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures and prompts as the network sees them, computed once.

    Attributes:
        latents: Clean, scaled latents.
        condition: For the same pictures, what :meth:`Backbone.condition` gives.
        mask: Where the loss counts, on the latents' grid; None counts all of it.

    Raises:
        SubjectError: No pictures, or another number of prompts than pictures.
    """

    latents: Float[Tensor, "n c y x"]
    condition: Mapping[str, Tensor]
    mask: Float[Tensor, "n 1 y x"] | None = None

    def __post_init__(self) -> None:
        """Check that pictures and prompts come in pairs."""
        counts = {name: len(value) for name, value in self.condition.items()}
        if not len(self.latents) or any(count != len(self) for count in counts.values()):
            raise SubjectError(
                f"found {len(self.latents)} latents with conditions {counts}; expected one "
                "condition for every picture and at least one picture; use examples()"
            )

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.latents)

    def pick(self, index: Int[Tensor, " k"]) -> "Examples":
        """Give the pairs at ``index``, in that order."""
        at = index.to(self.latents.device)
        mask = None if self.mask is None else self.mask[at]
        return Examples(self.latents[at], {n: v[at] for n, v in self.condition.items()}, mask)

    def joined(self, other: "Examples") -> "Examples":
        """Put the pairs of ``other`` after these."""
        condition = {n: torch.cat([v, other.condition[n]]) for n, v in self.condition.items()}
        mask = None
        if self.mask is not None or other.mask is not None:
            mask = torch.cat([self.where(), other.where()])
        return Examples(torch.cat([self.latents, other.latents]), condition, mask)

    def where(self) -> Float[Tensor, "n 1 y x"]:
        """Give the mask, ones if there is none."""
        return torch.ones_like(self.latents[:, :1]) if self.mask is None else self.mask


def examples(
    backbone: Backbone,
    source: Subject | Float[Tensor, "n 3 h w"],
    prompts: str | Sequence[str] | None = None,
    *,
    flip: bool = False,
) -> Examples:
    """Encode pictures and their prompts once (the pairs of Eqs. 2 and 3).

    Args:
        backbone: Knows the model.
        source: A subject, or RGB in [0, 1] (prior pictures).
        prompts: One prompt for all pictures, or one for each. A subject has its own, c^X.
        flip: Add the mirror image of every picture.

    Raises:
        SubjectError: The number of prompts does not fit, or the pictures have another size
            than the model.
    """
    pixels = source.images if isinstance(source, Subject) else source
    if prompts is None and isinstance(source, Subject):
        prompts = source.prompt
    each = [prompts] * len(pixels) if isinstance(prompts, str) else list(prompts or ())
    if len(each) != len(pixels):
        raise SubjectError(
            f"found {len(each)} prompts for {len(pixels)} pictures; expected one for all or one "
            "for each; pass as many prompts as pictures"
        )
    side = backbone.resolution
    if tuple(pixels.shape[-2:]) != (side, side):
        raise SubjectError(
            f"found pictures of {tuple(pixels.shape[-2:])} pixels; expected {(side, side)}, the "
            f"size the model knows; read them with size={side}"
        )
    if flip:
        pixels, each = torch.cat([pixels, pixels.flip(-1)]), each * 2
    return Examples(backbone.latents(pixels), backbone.condition(each))


@dataclass(frozen=True, eq=False)
class Parts:
    """Losses of single held-out samples, the same samples on every call.

    Attributes:
        subject: Of the subject (Eq. 2).
        prior: Of the prior (Eq. 3); empty if there is none.
        prior_weight: Lambda of Eq. 4.
    """

    subject: Float[Tensor, " n"]
    prior: Float[Tensor, " m"]
    prior_weight: float = 1.0

    @property
    def total(self) -> float:
        """Average and add both parts (Eq. 4)."""
        prior = float(self.prior.mean()) if len(self.prior) else 0.0
        return float(self.subject.mean()) + self.prior_weight * prior  # Eq. 4

    def __add__(self, other: "Parts") -> "Parts":
        """Add up two subjects, sample by sample; lambda is carried in the prior's losses."""
        subject = self.subject + other.subject
        return Parts(subject, _sum(self._weighted(), other._weighted(), len(subject)))

    def _weighted(self) -> Float[Tensor, " m"]:
        return self.prior_weight * self.prior


@dataclass(frozen=True, eq=False)
class _Draw:
    """Pictures with their noise and timesteps."""

    pairs: Examples
    noise: Float[Tensor, "n c y x"]
    timesteps: Int[Tensor, " n"]

    def joined(self, other: "_Draw") -> "_Draw":
        return _Draw(
            self.pairs.joined(other.pairs),
            torch.cat([self.noise, other.noise]),
            torch.cat([self.timesteps, other.timesteps]),
        )

    def part(self, index: slice) -> "_Draw":
        rows = torch.arange(len(self.pairs))[index]
        return _Draw(self.pairs.pick(rows), self.noise[index], self.timesteps[index])


@dataclass(frozen=True, eq=False)
class ImplantingLoss:
    """Implant a subject and preserve its category, ``L_sub + lambda L_pr`` (Eq. 4).

    Attributes:
        backbone: Knows the model.
        subject: Pairs of Eq. 2.
        prior: Pairs of Eq. 3, or ``None`` to do without.
        prior_weight: Lambda of Eq. 4.
        weighting: ``omega_t``: ``uniform`` or ``min-snr``.
        batch: Samples of the subject per step, and as many of the prior.
    """

    backbone: Backbone
    subject: Examples
    prior: Examples | None = None
    prior_weight: float = 1.0
    weighting: str = "uniform"
    batch: int = 8

    def __post_init__(self) -> None:
        """Check the numbers once, here."""
        if self.batch < 1 or self.prior_weight < 0:
            raise SubjectError(
                f"found batch {self.batch} and prior_weight {self.prior_weight}; expected a "
                "batch of 1 or more and a weight of 0 or more; change them"
            )

    def __add__(self, other: "ImplantingLoss | JointLoss") -> "JointLoss":
        """Capture several subjects together (Sec. 3.3)."""
        return JointLoss((self,)) + other

    def at(self, step: int, *, seed: int) -> Loss:
        """Draw the samples of ``step`` and give their loss as a function of the weights (Eq. 4).

        Subject and prior go through the network in one batch.
        """
        draw, count = self._draw(self.batch, (SEARCH, seed, step)), self.batch

        def loss(weights: Weights) -> Float[Tensor, ""]:
            each = self._each(weights, draw)
            subject = each[:count].mean()  # Eq. 2
            if len(each) == count:
                return subject
            return subject + self.prior_weight * each[count:].mean()  # Eqs. 3 and 4

        return loss

    @torch.no_grad()
    def parts(self, weights: Weights, *, samples: int, seed: int, batch: int = 32) -> Parts:
        """Measure the loss on ``samples`` held-out samples of subject and prior each.

        Which samples these are depends on ``samples`` and ``seed`` only: the difference of two
        sets of weights is free of sampling noise.
        """
        draw = self._draw(samples, (HELD_OUT, seed, samples))
        total = len(draw.timesteps)
        slices = [slice(start, start + batch) for start in range(0, total, batch)]
        each = torch.cat([self._each(weights, draw.part(index)) for index in slices])
        return Parts(each[:samples], each[samples:], self.prior_weight)

    def _each(self, weights: Weights, draw: _Draw) -> Float[Tensor, " n"]:
        return self.backbone.loss(
            weights,
            latents=draw.pairs.latents,
            noise=draw.noise,
            timesteps=draw.timesteps,
            condition=draw.pairs.condition,
            weighting=self.weighting,
            mask=draw.pairs.mask,
        )

    def _draw(self, count: int, key: tuple[str, int, int]) -> _Draw:
        generator = torch.Generator().manual_seed(_stream(*key))
        subject = self._drawn(self.subject, count, generator)
        if self.prior is None:
            return subject
        return subject.joined(self._drawn(self.prior, count, generator))

    def _drawn(self, pairs: Examples, count: int, generator: torch.Generator) -> _Draw:
        """Draw pictures evenly, timesteps and noise; on the CPU, so alike on every device."""
        rounds = -(-count // len(pairs))
        orders = [torch.randperm(len(pairs), generator=generator) for _ in range(rounds)]
        picked = pairs.pick(torch.cat(orders)[:count])
        timesteps = self.backbone.timesteps(count, generator)
        noise = torch.randn(picked.latents.shape, generator=generator)
        device = picked.latents.device
        return _Draw(picked, noise.to(device), timesteps.to(device))


@dataclass(frozen=True, eq=False)
class JointLoss:
    """Add the losses of several subjects (collaborative capture, Sec. 3.3)."""

    losses: tuple[ImplantingLoss, ...]

    def __add__(self, other: "ImplantingLoss | JointLoss") -> "JointLoss":
        """Take further subjects in."""
        return JointLoss(self.losses + getattr(other, "losses", (other,)))

    def at(self, step: int, *, seed: int) -> Loss:
        """Add what every subject's loss is at ``step``."""
        drawn = [loss.at(step, seed=seed) for loss in self.losses]
        return lambda weights: torch.stack([loss(weights) for loss in drawn]).sum()

    def parts(self, weights: Weights, *, samples: int, seed: int, batch: int = 32) -> Parts:
        """Add what every subject's held-out losses are, sample by sample."""
        first, *others = (
            loss.parts(weights, samples=samples, seed=seed, batch=batch) for loss in self.losses
        )
        for parts in others:
            first = first + parts
        return first


def _sum(a: Tensor, b: Tensor, count: int) -> Tensor:
    if not len(a) and not len(b):
        return a
    return sum(each if len(each) else torch.zeros(count, device=each.device) for each in (a, b))


def _stream(purpose: str, seed: int, number: int) -> int:
    """Turn a purpose and two numbers into a seed that no other triple shares."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
