"""Muon, an optimiser whose steps on matrices are orthogonal; the threads that training uses."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

# A batch is shared by Python threads of one OpenMP thread each: threads of OpenMP wait for each
# other at every operation, and a busy neighbour makes them several times slower.
WORKERS = 1 if torch.cuda.is_available() else os.cpu_count() or 1


def _prepare() -> None:
    """Set up a thread: both are settings of the thread, not of the process."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


POOL = ThreadPoolExecutor(WORKERS, initializer=_prepare)


def orthogonalised(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Move the singular values of each matrix (rows <= columns) near 1, by Newton-Schulz steps."""
    found = (matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-12)).bfloat16()
    for _ in range(5):
        gram = found @ found.mT
        found = 3.4445 * found + (-4.7750 * gram + 2.0315 * gram @ gram) @ found
    return found.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal per matrix (K. Jordan et al., 2024).

    Unlike ``torch.optim.Muon`` it takes convolutions, as matrices of their output channels, and
    does matrices of one shape together, which is several times faster on small ones.
    """

    def __init__(self, weights: list[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        """Take the weights."""
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step on the gradients."""
        (group,) = self.param_groups
        alike: dict[tuple[int, int], list[nn.Parameter]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                alike.setdefault((len(weight), weight[0].numel()), []).append(weight)
        jobs = [weights[k::WORKERS] for weights in alike.values() for k in range(WORKERS)]
        jobs = sorted(filter(None, jobs), key=lambda job: -len(job) * job[0].numel() ** 1.5)
        list(POOL.map(partial(self._step, lr=group["lr"], decay=group["weight_decay"]), jobs))

    @torch.no_grad()
    def _step(self, weights: list[nn.Parameter], *, lr: float, decay: float) -> None:
        shape, moved = (len(weights[0]), weights[0][0].numel()), []
        for weight in weights:
            past = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            past.lerp_(weight.grad, 0.05)
            moved.append(weight.grad.lerp(past, 0.95).flatten(1))  # Nesterov's
        stack = torch.stack(moved)
        tall = shape[0] > shape[1]
        stack = orthogonalised(stack.mT).mT if tall else orthogonalised(stack)
        size = lr * max(1.0, shape[0] / shape[1]) ** 0.5
        for weight, update in zip(weights, stack, strict=True):
            weight.mul_(1 - lr * decay).sub_(update.reshape(weight.shape), alpha=size)
