"""What the stages share: the work folder, the scale, the machine, the pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from torch import Tensor

from pretraining import autoencoder
from pretraining.loop import Recipe
from pretraining.muon import POOL, WORKERS
from pretraining.world.stores import PictureStore

LOOKS, PICTURES = 24_000, 60_000
SEED = 0
console = Console(stderr=True)


@dataclass
class Work:
    """What the stages share: the work folder, the scale, the machine.

    Attributes:
        folder: Holds all that the stages make.
        scale: Factor on pictures and updates.
        steps: Updates of a stage, where they are not the recipe's.
        output: Where the model is saved.
        judge: Where the examiner is saved.
        device: Where the networks are trained.
    """

    folder: Path
    scale: float
    steps: dict[str, int]
    output: Path
    judge: Path
    device: torch.device

    def count(self, full: int) -> int:
        """Scale a number."""
        return max(64, round(full * self.scale))

    def recipe(self, stage: str, recipe: Recipe) -> Recipe:
        """Return a stage's recipe as it is run here."""
        steps = self.steps.get(stage) or max(2, round(recipe.steps * self.scale))
        return replace(recipe, steps=steps, batch=min(recipe.batch, self.count(PICTURES)))

    def share(self, recipe: Recipe) -> int:
        """Return one worker's part of a batch."""
        return max(1, recipe.batch // (PartialState().num_processes * WORKERS))

    @cached_property
    def pictures(self) -> PictureStore:
        """The composed pictures."""
        return PictureStore.open(self.folder / "pictures")

    def pixels(self, index: Tensor) -> Tensor:
        """Return pictures in [-1, 1], ``(n, 3, h, w)``."""
        found = torch.from_numpy(self.pictures.pixels(index.tolist())).permute(0, 3, 1, 2)
        found = found.to(self.device).float() / 127.5 - 1
        return found.contiguous(memory_format=torch.channels_last)

    def weights(self, index: Tensor) -> Tensor:
        """Return the autoencoder's weights of the pixels, ``(n, 1, h, w)``, 1 in the mean."""
        found = torch.ones(len(index), 1, 128, 128)
        for weight, i in zip(found, index.tolist(), strict=True):
            for x0, y0, x1, y1 in (thing["box"] for thing in self.pictures.rows[i]["things"]):
                weight[:, y0:y1, x0:x1] = autoencoder.INSIDE
        return (found / found.mean((1, 2, 3), keepdim=True)).to(self.device)


def in_turn(make: Callable[[Tensor], Tensor], parts: Sequence[Tensor], what: str) -> list[Tensor]:
    """Apply a function to parts, on several threads; say how far it is."""
    made = []
    for part in POOL.map(make, parts):
        made.append(part)
        if len(made) % 100 == 0:
            console.print(f"{what}: {len(made)} of {len(parts)} parts")
    return made
