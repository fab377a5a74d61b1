"""The loop every pretraining stage shares: AdamW, trapezoid rate, moving average, exact resume.

A stage gives its modules and a function from a step number to a loss; whatever is drawn in a
step depends on that number alone, so an interrupted run continues to the same bits.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cones.errors import SearchError

SAVE_SECONDS = 60


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        steps: Number of updates.
        batch: Pictures in an update.
        rate: Peak learning rate of AdamW.
        warmup: Updates of linear rise.
        cooldown: Share of the updates, at the end, over which the rate falls linearly to 0.
        decay: Weight decay of AdamW.
        average: Decay of the exponential moving average of the weights.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 200
    cooldown: float = 0.25
    decay: float = 0.01
    average: float = 0.999

    def rate_at(self, step: int) -> float:
        """Return the trapezoid rate of update ``step`` (from 0)."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return self.rate * min(1.0, (step + 1) / self.warmup, left)


@dataclass
class Run:
    """A stage in progress: weights, their average, optimiser moments and losses so far."""

    module: nn.Module
    recipe: Recipe
    folder: Path
    step: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set up the optimiser and, where a checkpoint lies in the folder, continue from it."""
        self.weights = dict(self.module.named_parameters())
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.optimiser = torch.optim.AdamW(
            self.module.parameters(),
            lr=self.recipe.rate,
            weight_decay=self.recipe.decay,
            fused=True,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "state.safetensors").exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint to a temporary name and rename it."""
        tensors = {f"weight/{n}": w.detach().contiguous() for n, w in self.weights.items()}
        tensors |= {f"average/{n}": w.contiguous() for n, w in self.average.items()}
        for name, weight in self.weights.items():
            for kind, value in self.optimiser.state.get(weight, {}).items():
                tensors[f"{kind}/{name}"] = value.contiguous()
        path = self.folder / "state.safetensors"
        fresh = path.with_suffix(".part")
        save_file(tensors, fresh, metadata={"step": str(self.step)})
        fresh.replace(path)
        log = {"recipe": self.recipe.__dict__, "step": self.step, "losses": self.losses}
        fresh.write_text(json.dumps(log))
        fresh.replace(self.folder / "log.json")

    def _load(self) -> None:
        with safe_open(self.folder / "state.safetensors", "pt") as file:
            self.step = int(file.metadata()["step"])
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(file.get_tensor(f"weight/{name}"))
                    self.average[name].copy_(file.get_tensor(f"average/{name}"))
                    if f"exp_avg/{name}" in file.keys():  # noqa: SIM118 (not a mapping)
                        self.optimiser.state[weight] = {
                            kind: file.get_tensor(f"{kind}/{name}")
                            for kind in ("step", "exp_avg", "exp_avg_sq")
                        }
        self.losses = json.loads((self.folder / "log.json").read_text())["losses"]

    def update(self, loss: Tensor) -> None:
        """Take one optimiser step on ``loss`` and move the average along."""
        if not math.isfinite(value := loss.item()):
            raise SearchError(
                f"the loss of step {self.step} is {value}; the last checkpoint in {self.folder} "
                "is intact: lower the rate and run the same command again"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate_at(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.values()), [w.data for w in self.weights.values()], 1 - keep
        )
        self.losses.append(round(value, 5))

    def use_average(self) -> nn.Module:
        """Put the averaged weights into the module and return it in evaluation mode."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.average[name])
        return self.module.eval()


def averaged(module: nn.Module, recipe: Recipe, folder: Path) -> nn.Module:
    """Give ``module`` the averaged weights of the checkpoint in ``folder``."""
    return Run(module, recipe, folder).use_average()


def train(
    run: Run, loss_of: Callable[[int], Tensor], *, label: str, minutes: float = math.inf
) -> bool:
    """Run a stage to its end or to the time limit; saves every minute.

    Returns:
        Whether the stage is complete.
    """
    started = saved = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    run.module.train()
    with Progress(*columns, refresh_per_second=0.2) as bar:
        task = bar.add_task(label, total=run.recipe.steps, completed=run.step, loss=math.nan)
        with contextlib.suppress(KeyboardInterrupt):
            while run.step < run.recipe.steps and time.monotonic() - started < minutes * 60:
                run.update(loss_of(run.step))
                bar.update(task, completed=run.step, loss=sum(run.losses[-50:]) / 50)
                if time.monotonic() - saved > SAVE_SECONDS:
                    run.save()
                    saved = time.monotonic()
    run.save()
    return run.step >= run.recipe.steps
