"""Losses with known answers, cheap enough to differentiate a thousand times; random concepts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cones.backbones import backbone_for
from cones.base_check import BaseCheck
from cones.concept import Concept, Member
from cones.mask import ConceptMask


class Quadratic:
    """``sum of curvature * (w - target)^2 / 2``: its gradient is ``curvature * (w - target)``.

    With ``noise`` each step has its own target, drawn from the step alone.
    """

    def __init__(
        self, target: Mapping[str, Tensor], *, curvature: float = 1.0, noise: float = 0.0
    ) -> None:
        self.target = dict(target)
        self.curvature = curvature
        self.noise = noise
        self.asked: list[int] = []

    def __call__(self, step: int) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Return the loss of ``step``."""
        self.asked.append(step)
        target = self.targets(step)

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            parts = [(w - target[n]).double().square().sum() for n, w in weights.items()]
            return self.curvature / 2 * torch.stack(parts).sum()

        return loss

    def targets(self, step: int) -> dict[str, Tensor]:
        """Return where the loss of ``step`` is 0."""
        generator = torch.Generator().manual_seed(step)
        return {
            name: t + self.noise * torch.randn(t.shape, generator=generator).to(t)
            for name, t in self.target.items()
        }


class TwoLayers:
    """Squared error of ``tanh(x a^T) b^T`` on inputs drawn from the step: curved and coupled."""

    shapes = {"net.a.to_k.weight": (6, 4), "net.b.to_v.weight": (3, 6)}

    def weights(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Draw the weights to search."""
        generator = torch.Generator().manual_seed(7)
        return {n: torch.randn(s, generator=generator).to(dtype) for n, s in self.shapes.items()}

    def __call__(self, step: int) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Return the loss of ``step``."""
        generator = torch.Generator().manual_seed(1000 + step)
        x = torch.randn(16, 4, generator=generator)
        y = x[:, :3].roll(1, 1)

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            a, b = weights.values()
            return (torch.tanh(x.to(a) @ a.T) @ b.T - y.to(a)).square().mean()

        return loss


class Pairs:
    """``sum of scale * (w0 + w1 - 1)^2 / 2`` over the rows: one of each pair should be shut.

    At ``w = 1`` every weight asks to be shut with ``scale``; shutting both of a pair is no gain.
    """

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def __call__(self, step: int) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Return the loss, the same at every step."""
        return lambda weights: (self.scale * (weights["w"].sum(1) - 1).square()).sum() / 2


def random_weights(
    *shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Draw normal weights named ``w0``, ``w1``, ..."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"w{i}": torch.randn(shape, generator=generator).to(dtype)
        for i, shape in enumerate(shapes)
    }


class Colours:
    """An encoder whose vectors are mean colours; those of texts depend on their length."""

    def images(self, pixels: Tensor) -> Tensor:
        """Average over each picture."""
        return pixels.mean((2, 3))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Count letters."""
        return torch.tensor([[1.0, len(prompt) % 3, len(prompt) % 5] for prompt in prompts])


def make_concept(
    pipeline: Any, identifier: str = "V*", noun: str = "cat", *, seed: int = 1, scope: str = "both"
) -> Concept:
    """Draw two nested random masks of a tenth and a third of the weights."""
    draw = torch.Generator().manual_seed(seed)
    live = backbone_for(pipeline).weights(scope)
    noise = {n: torch.rand(w.shape, generator=draw) for n, w in live.items()}
    levels = tuple(
        ConceptMask.where({n: x < share for n, x in noise.items()}) for share in (0.1, 0.3)
    )
    part = {"subject": 0.5, "prior": 0.0, "loss": 0.5}
    return Concept(
        levels=levels,
        level=1,
        members=(Member(identifier, noun, {"text_encoder": torch.randn(1, 32, generator=draw)}),),
        base=BaseCheck.of(live, "tiny"),
        certificate={
            "untouched": part,
            "shut": part | {"subject": 0.25},
            "random": part | {"subject": 0.75},
            "curve": [part | {"subject": 0.375}, part | {"subject": 0.25}],
            "raises_loss": False,
        },
    )
