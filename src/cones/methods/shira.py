"""SHiRA: train a fixed, sparse share of the key and value weights, and store only these.

Source: Bhardwaj et al., "Sparse High Rank Adapters" (2024), Secs. 3 and 4, with the SNIP mask
(largest ``|theta * dL/dtheta|``): the nearest relative of Cones, which trains what Cones shuts.
The mask has one density in every layer, as there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cones.backbones import backbone_for
from cones.find import Notify
from cones.gradient import differentiate
from cones.intervention import Intervention
from cones.mask import ConceptMask
from cones.methods.files import require, size_of, write
from cones.methods.loop import Task, joint_loss, trained

FILE = "sparse_weights.safetensors"


@dataclass(frozen=True, eq=False)
class Sparse:
    """Values at some positions of the key and value projections.

    Attributes:
        identifiers: The words of the subjects.
        positions: Flat positions by parameter, ascending.
        values: New values there.
    """

    identifiers: tuple[str, ...]
    positions: dict[str, Tensor]
    values: dict[str, Tensor]

    @contextmanager
    def applied(self, pipeline: Any) -> Iterator[None]:
        """Put the values in; afterwards every bit is as before.

        Raises:
            MaskError: The model has another layout. Nothing has been changed.
        """
        backbone = backbone_for(pipeline)
        shapes = {name: tuple(w.shape) for name, w in backbone.weights("both").items()}
        written = Intervention(ConceptMask(shapes, self.positions), self.values)
        for identifier in self.identifiers:
            backbone.register(identifier)
        with written.applied(backbone.module):
            yield

    def save(self, folder: Path) -> int:
        """Write positions (int32) and values, 8 bytes a weight in float32; give the bytes."""
        tensors = {f"position/{n}": at.int() for n, at in self.positions.items()}
        tensors |= {f"value/{n}": value for n, value in self.values.items()}
        write(folder / FILE, tensors, {"identifiers": list(self.identifiers)})
        return size_of(folder)

    @classmethod
    def load(cls, folder: Path) -> "Sparse":
        """Read what :meth:`save` wrote."""
        path = require(folder / FILE)
        tensors = load_file(path.file)
        names = [n.removeprefix("value/") for n in tensors if n.startswith("value/")]
        return cls(
            tuple(path.settings["identifiers"]),
            {n: tensors[f"position/{n}"].long() for n in names},
            {n: tensors[f"value/{n}"] for n in names},
        )


@dataclass(frozen=True)
class SHiRA:
    """The method and its settings.

    Attributes:
        steps: Updates.
        rate: Learning rate.
        batch: Photos in an update, and as many prior pictures.
        density: Share of every layer's weights that is trained.
        scoring: Gradients averaged for the mask.
    """

    steps: int = 800
    rate: float = 1e-4
    batch: int = 4
    density: float = 0.0132
    scoring: int = 32

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> Sparse:
        """Choose the positions, then learn the values; the pipeline's weights are not changed."""
        loss = joint_loss(pipeline, tasks, batch=self.batch)
        live = {n: w.float() for n, w in backbone_for(pipeline).weights("both").items()}

        total = {name: torch.zeros_like(w) for name, w in live.items()}
        for step in range(self.scoring):
            _, gradients = differentiate(loss.at(step, seed=seed), live, step=step)
            for name, gradient in gradients.items():
                total[name] += gradient
        positions = {}
        for name, weight in live.items():
            count = max(1, round(self.density * weight.numel()))
            best = (weight * total[name]).abs().flatten().topk(count).indices
            positions[name] = best.sort().values

        def loss_of(leaves: dict[str, Tensor], step: int) -> Tensor:
            mixed = {
                n: w.flatten().scatter(0, positions[n], leaves[n]).view_as(w)
                for n, w in live.items()
            }
            return loss.at(self.scoring + step, seed=seed)(mixed)

        learnt = trained(
            {n: live[n].flatten()[at] for n, at in positions.items()},
            loss_of,
            steps=self.steps,
            rate=self.rate,
            label="shira",
            notify=on_progress,
        )
        return Sparse(tuple(t.subject.identifier for t in tasks), positions, learnt)
