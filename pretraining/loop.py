"""The loop that every stage shares: Muon, a trapezoid of rates, averaged weights, exact resume.

A stage gives its module and a function from a generator to a loss. The generator depends on the
stage, the step and the process alone, so an interrupted run continues to the same bits. The rate
rises, stays, and falls to 0 over the last steps; a run can be made longer or shorter until the
fall begins. Processes that ``accelerate launch`` started share every batch.
"""

import json
import math
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pretraining.muon import POOL, WORKERS, Muon

SAVE_SECONDS, PRINT_SECONDS = 60, 30
KEPT = ("momentum", "step", "exp_avg", "exp_avg_sq")  # what the optimisers remember of a weight
NARROWEST = 9  # smaller matrices are left to AdamW: little to make orthogonal


Trained = TypeVar("Trained", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        steps: Number of updates.
        batch: Samples in an update, over all processes.
        rate: Peak learning rate of AdamW, for what is no matrix.
        matrix_rate: Peak learning rate of Muon, for matrices and convolutions.
        warmup: Updates of linear rise.
        cooldown: Share of the updates, at the end, over which the rate falls linearly to 0.
        decay: Weight decay.
        average: Decay of the moving average of the weights.
    """

    steps: int
    batch: int
    rate: float = 8e-4
    matrix_rate: float = 0.01
    warmup: int = 100
    cooldown: float = 0.25
    decay: float = 0.01
    average: float = 0.999

    def share_at(self, step: int) -> float:
        """Return the share of the peak rates at update ``step`` (from 0)."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def optimisers(module: nn.Module, recipe: Recipe) -> tuple[Muon, torch.optim.AdamW]:
    """Share the weights between Muon (matrices but embeddings) and AdamW (all others)."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices, others = [], []
    for weight in module.parameters():
        wide = weight.dim() >= 2 and min(len(weight), weight[0].numel()) >= NARROWEST
        (matrices if wide and id(weight) not in tables else others).append(weight)
    adam = torch.optim.AdamW(others, lr=recipe.rate, weight_decay=recipe.decay, fused=True)
    return Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.decay), adam


@dataclass
class Run(Generic[Trained]):
    """A stage in progress: its module, the averaged weights, the optimisers, what was seen."""

    module: Trained
    recipe: Recipe
    folder: Path
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set up the optimisers; go on from the checkpoint in the folder, if there is one."""
        self.weights = dict(self.module.named_parameters())
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.optimisers = optimisers(self.module, self.recipe)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "state.safetensors").exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint under another name and rename it; the first process does."""
        if not PartialState().is_main_process:
            return
        tensors = {f"weight/{n}": w.detach().contiguous() for n, w in self.weights.items()}
        tensors |= {f"average/{n}": w.contiguous() for n, w in self.average.items()}
        for name, weight in self.weights.items():
            for optimiser in self.optimisers:
                for kind, value in optimiser.state.get(weight, {}).items():
                    tensors[f"{kind}/{name}"] = value.contiguous()
        log = {"recipe": asdict(self.recipe), "step": self.step, "losses": self.losses}
        log |= {"samples": self.step * self.recipe.batch, "seconds": round(self.seconds)}
        fresh = self.folder / "state.part"
        save_file(tensors, fresh, metadata={"log": json.dumps(log)})
        fresh.replace(self.folder / "state.safetensors")
        (self.folder / "log.json").write_text(json.dumps(log))

    def _load(self) -> None:
        with safe_open(self.folder / "state.safetensors", "pt") as file, torch.no_grad():
            stored = set(file.keys())
            for name, weight in self.weights.items():
                weight.copy_(file.get_tensor(f"weight/{name}"))
                self.average[name].copy_(file.get_tensor(f"average/{name}"))
            for optimiser in self.optimisers:
                for weight in (w for group in optimiser.param_groups for w in group["params"]):
                    name = next(n for n, w in self.weights.items() if w is weight)
                    optimiser.state[weight] = {
                        kind: file.get_tensor(f"{kind}/{name}").to(weight.device)
                        for kind in KEPT
                        if f"{kind}/{name}" in stored
                    }
            log = json.loads(file.metadata()["log"])
        self.step, self.losses, self.seconds = log["step"], log["losses"], log["seconds"]

    def update(
        self, loss_of: Callable[[torch.Generator], Tensor], draws: list[torch.Generator]
    ) -> None:
        """Take one step on the mean loss over the draws and move the average along."""
        parts = list(POOL.map(partial(self._gradients, loss_of), draws))
        for weight, *found in zip(
            self.weights.values(), *(grads for _, grads in parts), strict=True
        ):
            known = [grad for grad in found if grad is not None]
            weight.grad = sum(known[1:], known[0]) / len(parts) if known else None
        loss = torch.stack([value for value, _ in parts]).mean()
        several = PartialState().num_processes > 1
        value = float(reduce(loss, "mean")) if several else loss.item()  # pyright: ignore
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {self.step} is {value}; expected a finite one; the checkpoint "
                f"in {self.folder} is intact: lower the rate and run the same command again"
            )
        if several:
            for weight in self.weights.values():
                if weight.grad is not None:
                    weight.grad = reduce(weight.grad, "mean")  # pyright: ignore
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        share = self.recipe.share_at(self.step)
        rates = (self.recipe.matrix_rate, self.recipe.rate)
        for optimiser, rate in zip(self.optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.step()
        self.step += 1
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        current = [w.data for w in self.weights.values()]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - keep)
        self.losses.append(round(value, 5))

    def _gradients(
        self, loss_of: Callable[[torch.Generator], Tensor], draw: torch.Generator
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = loss_of(draw)
        return loss.detach(), torch.autograd.grad(
            loss, list(self.weights.values()), allow_unused=True
        )


def placed(module: Trained, device: torch.device) -> Trained:
    """Move a module; diffusers' own `to` cannot be typed."""
    nn.Module.to(module, device)
    return module


def averaged(module: Trained, folder: Path) -> Trained:
    """Give ``module`` the averaged weights of the checkpoint in ``folder``, frozen."""
    with safe_open(folder / "state.safetensors", "pt") as file, torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(file.get_tensor(f"average/{name}"))
    return module.requires_grad_(False).eval()


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the step in progress is finished."""
    caught: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: caught.append(number)) for kind in kinds}
    try:
        yield caught
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def train(
    run: Run, loss_of: Callable[[torch.Generator], Tensor], *, label: str, every: int = 0,
    report: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Run a stage to its end; saves every minute and when interrupted.

    Args:
        run: The stage.
        loss_of: The loss of this process' share of a batch, drawn with the generator.
        label: Shown beside the bar; it seeds the draws too.
        every: Updates between two calls of ``report``; 0 for none.
        report: Called with the step, on the main process.

    Raises:
        KeyboardInterrupt: Where Ctrl-C or SIGTERM came; the checkpoint is written first.
    """
    main, salt = PartialState().is_main_process, zlib.crc32(label.encode())
    salt += 7919 * PartialState().process_index
    saved = started = time.monotonic()
    before, first = run.seconds, run.step
    run.module.train()
    with interruptible() as caught, _progress(main) as bar:
        task = bar.add_task(label, total=run.recipe.steps, completed=run.step, loss=math.nan)
        said = 0.0
        while run.step < run.recipe.steps and not _agreed(bool(caught)):
            seeds = [((salt + worker) << 24) + run.step for worker in range(WORKERS)]
            run.update(loss_of, [torch.Generator().manual_seed(seed) for seed in seeds])
            now = time.monotonic()
            run.seconds = before + now - started
            loss = sum(run.losses[-100:]) / len(run.losses[-100:])
            bar.update(task, completed=run.step, loss=loss)
            if main and bar.disable and now - said > PRINT_SECONDS:
                _say(label, run, loss, (run.step - first) / (now - started))
                said = now
            if now - saved > SAVE_SECONDS:
                run.save()
                saved = now
            if report and every and main and run.step % every == 0:
                report(run.step)
    run.save()
    PartialState().wait_for_everyone()
    if run.step < run.recipe.steps:
        raise KeyboardInterrupt


def _say(label: str, run: Run, loss: float, rate: float) -> None:
    """Write how far a stage is; ``rate`` is in updates a second."""
    left = (run.recipe.steps - run.step) / rate / 60
    line = f"{label} {run.step}/{run.recipe.steps} loss {loss:.4f}"
    sys.stdout.write(f"{line}, {rate * run.recipe.batch:.0f} samples/s, {left:.1f} min left\n")
    sys.stdout.flush()


def _progress(main: bool) -> Progress:
    """Return a bar for a terminal; it is disabled elsewhere."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not (main and sys.stdout.isatty()))


def _agreed(stop: bool) -> bool:
    """Let the first process decide for all of them, or they would wait for each other for ever."""
    return broadcast_object_list([stop])[0] if PartialState().num_processes > 1 else stop
