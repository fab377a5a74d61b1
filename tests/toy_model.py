"""A model of two small matrices that answers as a Model does, and losses with known answers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cones.models.base import Model
from cones.search.loss import Examples, Loss, Part

K, V = "net.a.to_k.weight", "net.b.to_v.weight"


def drawn(seed: int, *shape: int) -> Tensor:
    """Draw normal numbers from a seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class ToyModel(Model):
    """Predicts ``tanh(x A^T) B^T + c`` from latents of four cells; keeps every call."""

    pipeline = None
    name, size, latent_shape = "toy", 32, (1, 2, 2)

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        """Draw the two matrices."""
        self.module = nn.Module()
        for k, name in enumerate((K, V)):
            value = nn.Parameter(drawn(seed + k, 4, 4).to(dtype), requires_grad=False)
            self.module.register_parameter(name.replace(".", "_"), value)
        self.calls: list[dict[str, Tensor]] = []

    def names(self, scope: str = "both") -> tuple[str, ...]:
        """Name the matrices: the first stands for self-attention, the second for cross."""
        return {"both": (K, V), "self": (K,), "cross": (V,)}[scope]

    def weights(self, scope: str = "both") -> dict[str, Tensor]:
        """Give the live matrices."""
        return {n: self.module.get_parameter(n.replace(".", "_")).data for n in self.names(scope)}

    def encode(self, pixels: Tensor) -> Tensor:
        """Average pictures down to two by two cells."""
        return nn.functional.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), 2)

    def condition(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Turn a prompt into one number by the length of its text."""
        return {"states": torch.tensor([[len(prompt) / 10] for prompt in prompts])}

    embedded = condition

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw whole numbers below 1000."""
        return torch.randint(0, 1000, (count,), generator=generator)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise in proportion to time."""
        return latents + noise * (timesteps / 1000).view(-1, 1, 1, 1)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Ask for the noise."""
        return noise

    def snr_weights(self, timesteps: Tensor, weighting: str) -> Tensor:
        """Weight by 1, or by time."""
        return torch.ones(len(timesteps)) if weighting == "uniform" else timesteps / 500

    def predict(
        self,
        weights: Mapping[str, Tensor],
        noised: Tensor,
        timesteps: Tensor,
        condition: Mapping[str, Tensor],
    ) -> Tensor:
        """Predict with the matrices handed in, or its own."""
        a, b = ({**self.weights(), **weights}[name] for name in (K, V))
        self.calls.append(
            {
                "noised": noised,
                "timesteps": timesteps,
                **condition,
                "a": a,
                "grad": a.requires_grad,
            }
        )
        hidden = torch.tanh(noised.flatten(1).to(a) @ a.T) @ b.T
        return (hidden + condition["states"].to(hidden)).view_as(noised)

    @contextmanager
    def without_encoders(self) -> Iterator[None]:
        """Do nothing."""
        yield


def pairs(count: int, *, seed: int, mark: float, masks: Tensor | None = None) -> Examples:
    """Draw latents; the condition of picture k is ``mark + k / 100``."""
    states = (mark + torch.arange(count) / 100)[:, None]
    return Examples(drawn(seed, count, 1, 2, 2), {"states": states}, masks)


class Quadratic:
    """``sum of curvature * (w - target)^2 / 2``: its gradient is ``curvature * (w - target)``.

    With ``noise`` each step has its own target, drawn from the step alone.
    """

    def __init__(
        self, target: Mapping[str, Tensor], *, curvature: float = 1.0, noise: float = 0.0
    ) -> None:
        """Keep where the loss is 0."""
        self.target, self.curvature, self.noise = dict(target), curvature, noise
        self.asked: list[int] = []

    def targets(self, step: int) -> dict[str, Tensor]:
        """Give where the loss of ``step`` is 0."""
        generator = torch.Generator().manual_seed(step)
        return {
            n: t + self.noise * torch.randn(t.shape, generator=generator).to(t)
            for n, t in sorted(self.target.items())
        }

    def __call__(self, step: int) -> Loss:
        """Give the loss of ``step``."""
        self.asked.append(step)
        target = self.targets(step)

        def loss(weights: Mapping[str, Tensor]) -> Iterator[Part]:
            squares = [(w - target[n].to(w)).square().sum() for n, w in sorted(weights.items())]
            yield lambda: (self.curvature / 2 * torch.stack(squares).sum(), torch.zeros(()))

        return loss


class TwoLayers:
    """Squared error of ``tanh(x A^T) B^T`` on inputs drawn from the step: curved and coupled."""

    shapes = {K: (6, 4), V: (3, 6)}

    def weights(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Draw the weights to search."""
        return {n: drawn(7 + k, *s).to(dtype) for k, (n, s) in enumerate(self.shapes.items())}

    def __call__(self, step: int) -> Loss:
        """Give the loss of ``step``; half of its samples count as the prior's."""
        x = drawn(1000 + step, 16, 4)
        y = x[:, :3].roll(1, 1)

        def loss(weights: Mapping[str, Tensor]) -> Iterator[Part]:
            a, b = weights[K], weights[V]
            error = (torch.tanh(x.to(a) @ a.T) @ b.T - y.to(a)).float().square().mean(1)
            yield lambda: (error[:8].mean(), error[8:].mean())

        return loss
