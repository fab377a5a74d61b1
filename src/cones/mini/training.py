"""The loop every pretraining stage shares: Muon, trapezoid rate, moving average, exact resume.

A stage gives its modules and a function from a step number to a loss; whatever is drawn in a
step depends on that number alone, so an interrupted run continues to the same bits. Processes that
``accelerate launch`` started together take a share of every batch each and average gradients.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cones.errors import SearchError
from cones.mini.muon import Muon, is_matrix

SAVE_SECONDS = 60
MOMENTS = (("momentum",), ("step", "exp_avg", "exp_avg_sq"))  # what Muon and AdamW remember


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        steps: Number of updates.
        batch: Pictures in an update.
        rate: Peak learning rate of AdamW, for what is no matrix.
        matrix_rate: Peak learning rate of Muon, for matrices and convolutions; 0 leaves them to
            AdamW.
        warmup: Updates of linear rise.
        cooldown: Share of the updates, at the end, over which the rate falls linearly to 0.
        decay: Weight decay.
        average: Decay of the exponential moving average of the weights.
    """

    steps: int
    batch: int
    rate: float
    matrix_rate: float = 0.01
    warmup: int = 200
    cooldown: float = 0.25
    decay: float = 0.01
    average: float = 0.999

    def larger(self, updates: float, batch: int) -> "Recipe":
        """Return the recipe for a faster machine: so many times the updates and the batch."""
        return replace(self, steps=round(self.steps * updates), batch=self.batch * batch)

    def share_at(self, step: int) -> float:
        """Return the share of the peak rates at update ``step`` (from 0), a trapezoid."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def optimisers(module: nn.Module, recipe: Recipe) -> tuple[Muon, torch.optim.AdamW]:
    """Share the weights between Muon (matrices but embeddings) and AdamW (all others)."""
    tables = {
        id(weight)
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for weight in part.parameters()
    }
    matrices, others = [], []
    for weight in module.parameters():
        takes = recipe.matrix_rate and is_matrix(weight) and id(weight) not in tables
        (matrices if takes else others).append(weight)
    muon = Muon(
        [{"params": matrices, "peak": recipe.matrix_rate}],
        lr=recipe.matrix_rate,
        weight_decay=recipe.decay,
    )
    adam = torch.optim.AdamW(
        [{"params": others, "peak": recipe.rate}],
        lr=recipe.rate,
        weight_decay=recipe.decay,
        fused=True,
    )
    return muon, adam


@dataclass
class Run:
    """A stage in progress: weights, their average, moments, losses and pictures seen so far."""

    module: nn.Module
    recipe: Recipe
    folder: Path
    step: int = 0
    samples: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set up the optimiser and, where a checkpoint lies in the folder, continue from it."""
        self.weights = dict(self.module.named_parameters())
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.optimisers = optimisers(self.module, self.recipe)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "state.safetensors").exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint to a temporary name and rename it; the first process does."""
        if not PartialState().is_main_process:
            return
        tensors = {f"weight/{n}": w.detach().contiguous() for n, w in self.weights.items()}
        tensors |= {f"average/{n}": w.contiguous() for n, w in self.average.items()}
        for name, weight in self.weights.items():
            for optimiser in self.optimisers:
                for kind, value in optimiser.state.get(weight, {}).items():
                    tensors[f"{kind}/{name}"] = value.contiguous()
        path = self.folder / "state.safetensors"
        fresh = path.with_suffix(".part")
        save_file(tensors, fresh, metadata={"step": str(self.step)})
        fresh.replace(path)
        log = {"recipe": self.recipe.__dict__, "step": self.step, "samples": self.samples}
        log["losses"] = self.losses
        fresh.write_text(json.dumps(log))
        fresh.replace(self.folder / "log.json")

    def _load(self) -> None:
        with safe_open(self.folder / "state.safetensors", "pt") as file:
            self.step = int(file.metadata()["step"])
            stored = set(file.keys())
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(file.get_tensor(f"weight/{name}"))
                    self.average[name].copy_(file.get_tensor(f"average/{name}"))
            for optimiser, kinds in zip(self.optimisers, MOMENTS, strict=True):
                held = {id(w) for group in optimiser.param_groups for w in group["params"]}
                for name, weight in self.weights.items():
                    if id(weight) in held and f"{kinds[0]}/{name}" in stored:
                        optimiser.state[weight] = {
                            kind: file.get_tensor(f"{kind}/{name}").to(weight.device)
                            for kind in kinds
                        }
        log = json.loads((self.folder / "log.json").read_text())
        self.samples, self.losses = log["samples"], log["losses"]

    def update(self, loss: Tensor) -> None:
        """Take one optimiser step on ``loss`` and move the average along."""
        several = PartialState().num_processes > 1
        value = float(reduce(loss.detach(), "mean")) if several else loss.item()
        if not math.isfinite(value):
            raise SearchError(
                f"the loss of step {self.step} is {value}; the last checkpoint in {self.folder} "
                "is intact: lower the rate and run the same command again"
            )
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        if several:
            for weight in self.weights.values():
                if weight.grad is not None:
                    weight.grad = reduce(weight.grad, "mean")
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        share = self.recipe.share_at(self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * share
            optimiser.step()
        self.step += 1
        self.samples += self.recipe.batch
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
    main = PartialState().is_main_process
    with Progress(*columns, refresh_per_second=0.2, disable=not main) as bar:
        task = bar.add_task(label, total=run.recipe.steps, completed=run.step, loss=math.nan)
        with contextlib.suppress(KeyboardInterrupt):
            while run.step < run.recipe.steps and not _agreed(
                time.monotonic() - started >= minutes * 60
            ):
                run.update(loss_of(run.step))
                bar.update(task, completed=run.step, loss=sum(run.losses[-50:]) / 50)
                if time.monotonic() - saved > SAVE_SECONDS:
                    run.save()
                    saved = time.monotonic()
    run.save()
    PartialState().wait_for_everyone()
    return run.step >= run.recipe.steps


def _agreed(stop: bool) -> bool:
    """Let the first process decide for all of them, or they would wait for each other for ever."""
    return broadcast_object_list([stop])[0] if PartialState().num_processes > 1 else stop
