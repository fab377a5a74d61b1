"""The work folder that the stages share, and the loop that trains each of them.

A stage builds a module and computes a loss of drawn pictures. What is drawn depends on the stage,
the step and the process alone, and every minute a checkpoint is written, whole or not at all: a
run may be ended at any time and continues to the same bits. The rate rises, stays, and falls to 0
over the last steps; until the fall begins a run can be made longer or shorter. Processes that
``accelerate launch`` started share every batch.
"""

import json
import sys
import time
import tomllib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from jaxtyping import Float
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from cones.files import replace_when_done, write_atomic
from experiments.metrics.examiner import WEIGHTS
from pretraining.muon import POOL, WORKERS, Muon
from pretraining.world.stores import PictureStore

LOOKS, PICTURES, SEED = 24_000, 60_000, 0
OUTPUT = Path("src/cones/models/builtin/weights")
MODEL = tomllib.loads(Path(__file__).with_name("model.toml").read_text("utf-8"))
NETWORKS, RECIPES = MODEL["networks"], MODEL["recipes"]
console = Console(stderr=True)
SAVE_SECONDS = 60
NARROWEST = 9  # smaller matrices are left to AdamW: little to make orthogonal
Trained = TypeVar("Trained", bound=nn.Module)


@dataclass
class Work:
    """A work folder and how large the whole is; ``scale`` is a factor on pictures and updates.

    ``steps`` gives the updates of single stages; the model is saved in ``output`` and the
    examiner in ``judge``.
    """

    folder: Path
    scale: float = 1.0
    steps: dict[str, int] = field(default_factory=dict)
    output: Path = OUTPUT
    judge: Path = WEIGHTS
    device: torch.device = field(default_factory=lambda: PartialState().device)

    def count(self, full: int) -> int:
        """Scale a number."""
        return max(64, round(full * self.scale))

    @cached_property
    def pictures(self) -> PictureStore:
        """The composed pictures."""
        return PictureStore.open(self.folder / "pictures")

    def pixels(self, index: Tensor) -> Float[Tensor, "n 3 h w"]:
        """Return pictures in [-1, 1]."""
        return pixels_of(self.pictures, index.tolist()).to(self.device)

    def cached(self, name: str, make: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """Apply ``make`` to all items, some at a time, and keep the result in fp16."""
        path = self.folder / f"{name}.npy"
        with PartialState().main_process_first():  # the others find the file
            if not path.exists():
                found = in_turn(lambda part: make(part).half().cpu(), items, name)
                with replace_when_done(path) as whole:
                    np.save(whole, found.numpy())
        return torch.from_numpy(np.load(path, mmap_mode="c"))


def pixels_of(store: PictureStore, index: Sequence[int]) -> Float[Tensor, "n 3 h w"]:
    """Return pictures in [-1, 1]."""
    found = torch.from_numpy(store.pixels(index)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return found.contiguous(memory_format=torch.channels_last)


def in_turn(make: Callable[[Tensor], Tensor], items: Tensor, label: str = "") -> Tensor:
    """Apply a function to some items at a time, on all threads, without gradients."""
    parts = items.split(25)
    return torch.cat([*bar(POOL.map(torch.no_grad()(make), parts), label, len(parts))])


def bar(items: Iterable, label: str, total: int, done: int = 0) -> tqdm:
    """Say how far something is: in one line of a terminal, every half minute elsewhere."""
    every, end = (0.5, "") if sys.stderr.isatty() else (30, "\n")
    told = "{desc} {n_fmt}/{total_fmt}{postfix}, {rate_fmt}, {remaining} left" + end
    kind = {"mininterval": every, "maxinterval": 2 * every, "bar_format": told}
    off = not (label and PartialState().is_main_process)
    return tqdm(items, label, total, initial=done, disable=off, **kind)


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained; ``model.toml`` says what each figure is."""

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


def averaged(module: Trained, folder: Path) -> Trained:
    """Give ``module`` the averaged weights of the checkpoint in ``folder``, frozen."""
    with safe_open(folder / "state.safetensors", "pt") as file, torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(file.get_tensor(f"average/{name}"))
    return module.requires_grad_(False).eval()


class Stage(ABC, Generic[Trained]):
    """A part of the model in training; its checkpoint lies in the folder of its name."""

    def __init__(self, work: Work, weights: Mapping[str, Tensor] | None = None) -> None:
        """Go on from the checkpoint; without one start from ``weights``, or at random."""
        self.work, self.name = work, type(self).__name__.lower()
        self.folder, recipe = work.folder / self.name, Recipe(**RECIPES[self.name])
        steps = work.steps.get(self.name) or max(2, round(recipe.steps * work.scale))
        self.recipe = replace(recipe, steps=steps, batch=min(recipe.batch, work.count(PICTURES)))
        torch.manual_seed(SEED)
        self.module = self._build().to(work.device)
        self.module.load_state_dict(weights or {}, strict=False)
        self.weights = dict(self.module.named_parameters())
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.optimisers = optimisers(self.module, self.recipe)
        self.step, self.seconds, self.losses = 0, 0.0, []
        if (self.folder / "state.safetensors").exists():
            self._load()

    @abstractmethod
    def _build(self) -> Trained:
        """Return the untrained module."""

    def _prepare(self) -> Tensor:
        """Load what the loss needs; say how often each picture is drawn."""
        return torch.ones(len(self.work.pictures))

    @abstractmethod
    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        """Return the loss of the pictures ``index``; other chances come from ``draw``."""

    def _report(self) -> None:
        """Show what the stage can do; called five times a run."""

    def _finish(self) -> None:
        """Measure the trained module and write it elsewhere too."""

    def train(self) -> None:
        """Train to the end of the recipe."""
        saved = began = time.monotonic()
        steps, before, main = self.recipe.steps, self.seconds, PartialState().is_main_process
        self.chances = self._prepare()
        self.module.train()
        told = bar(range(self.step, steps), self.name, steps, self.step)
        for _ in told:
            self.update()
            now, last = time.monotonic(), self.losses[-100:]
            self.seconds = before + now - began
            told.set_postfix_str(f"loss {sum(last) / len(last):.4f}", refresh=False)
            shown = self.step % max(1, steps // 5) == 0
            if main and (shown or now - saved > SAVE_SECONDS):
                self.save()
                saved = now
            if main and shown:
                self._report()
        if main:
            self.save()
            self._finish()

    def update(self) -> None:
        """Take one step on the mean loss of all workers and move the average along.

        Raises:
            RuntimeError: A gradient is not finite; nothing has changed.
        """
        losses, gradients = zip(*POOL.map(self._gradients, range(WORKERS)), strict=True)
        for weight, *found in zip(self.weights.values(), *gradients, strict=True):
            known = [grad for grad in found if grad is not None]
            weight.grad = sum(known[1:], known[0]) / WORKERS if known else None
            if known and PartialState().num_processes > 1:
                weight.grad = reduce(weight.grad, "mean")
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0, error_if_nonfinite=True)
        peaks = (self.recipe.matrix_rate, self.recipe.rate)
        for optimiser, peak in zip(self.optimisers, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * self.recipe.share_at(self.step)
            optimiser.step()
        self.step += 1
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        current = [weight.data for weight in self.weights.values()]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - keep)
        self.losses.append(round(float(reduce(torch.stack(losses).mean(), "mean")), 5))

    def _gradients(self, worker: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return the loss of a worker's share of the batch, and its gradients."""
        state = PartialState()
        salt = zlib.crc32(self.name.encode()) + 7919 * state.process_index + worker
        draw = torch.Generator().manual_seed((salt << 24) + self.step)
        share = max(1, self.recipe.batch // (state.num_processes * WORKERS))
        loss = self.loss(self.chances.multinomial(share, replacement=True, generator=draw), draw)
        weights = list(self.weights.values())
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """List the weights, their averages, and what the optimisers remember of them."""
        for name, weight in self.weights.items():
            yield f"weight/{name}", weight.detach()
            yield f"average/{name}", self.average[name]
            for optimiser in self.optimisers:
                for kind, value in optimiser.state.get(weight, {}).items():
                    yield f"{kind}/{name}", value

    def save(self) -> None:
        """Write the checkpoint, and the curve of the loss beside it."""
        log = {"recipe": asdict(self.recipe), "step": self.step, "losses": self.losses}
        log |= {"samples": self.step * self.recipe.batch, "seconds": round(self.seconds)}
        with replace_when_done(self.folder / "state.safetensors") as part:
            tensors = {name: value.contiguous() for name, value in self._tensors()}
            save_file(tensors, part, metadata={"log": json.dumps(log)})
        write_atomic(self.folder / "log.json", json.dumps(log).encode())

    def _load(self) -> None:
        owner = {w: o for o in self.optimisers for w in o.param_groups[0]["params"]}
        with safe_open(self.folder / "state.safetensors", "pt") as file, torch.no_grad():
            for key in file.keys():  # noqa: SIM118
                kind, name = key.split("/", 1)
                value, weight = file.get_tensor(key).to(self.work.device), self.weights[name]
                if kind in ("weight", "average"):
                    (weight if kind == "weight" else self.average[name]).copy_(value)
                else:
                    owner[weight].state[weight][kind] = value
            log = json.loads(file.metadata()["log"])
        self.step, self.losses, self.seconds = log["step"], log["losses"], log["seconds"]
