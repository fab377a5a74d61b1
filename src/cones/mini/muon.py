"""Muon: momentum whose matrix updates are orthogonalised, for networks that must learn quickly.

Adam scales every weight by itself, so an ill-conditioned network learns its strongest directions
and hardly anything else for thousands of updates: trained by it, four of the sixteen channels of
our autoencoder's latents held all the variance. Muon replaces the momentum of a matrix by the
nearest orthogonal one, which moves all directions alike.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024);
convolutions are treated as matrices of their output channels.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose fixed points lie near 1 (ibid.)
SMALLEST = 9  # narrower matrices are left to Adam: little to orthogonalise


def orthogonalised(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Move the singular values of each matrix (rows <= columns) near 1, by Newton-Schulz steps."""
    a, b, c = COEFFICIENTS
    found = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-12)
    found = found.bfloat16()
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.to(matrices.dtype)


def is_matrix(weight: Tensor) -> bool:
    """Tell whether Muon takes this weight: a matrix or convolution that is not narrow."""
    return weight.dim() >= 2 and min(weight.shape[0], weight[0].numel()) >= SMALLEST


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised per matrix; matrices of one shape are done together.

    Args:
        weights: Matrices ``(rows, columns)`` or convolutions ``(out, in, height, width)``.
        lr: Step size; an update has a root mean square of about ``lr / sqrt(columns)``.
        momentum: Decay of the momentum.
        weight_decay: Decoupled, times ``lr``.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Take the weights."""
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step on the gradients."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault(weight.flatten(1).shape, []).append(weight)
            for shape, weights in shapes.items():
                self._step(group, shape, weights)

    def _step(self, group: dict, shape: tuple[int, int], weights: list[nn.Parameter]) -> None:
        momentum = group["momentum"]
        moved = []
        for weight in weights:
            past = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            past.lerp_(weight.grad, 1 - momentum)
            moved.append(weight.grad.lerp(past, momentum).flatten(1))
        stack = torch.stack(moved)
        tall = shape[0] > shape[1]
        stack = orthogonalised(stack.mT if tall else stack)
        size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        for weight, update in zip(weights, stack.mT if tall else stack, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(update.reshape(weight.shape), alpha=size)
