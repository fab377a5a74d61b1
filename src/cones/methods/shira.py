"""SHiRA: train a fixed, sparse share of the key and value weights, and store only these.

Source: Bhardwaj et al., "Sparse High Rank Adapters" (2024), Secs. 3 and 4, with the SNIP mask
(largest ``|theta * dL/dtheta|``): the nearest relative of Cones, which trains what Cones shuts.
The mask has one density in every layer, as there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cones.backbones import backbone_for
from cones.find import Notify
from cones.gradient import differentiate
from cones.methods.files import require, size_of, write
from cones.methods.loop import Task, descend, leaves_of, losses_of
from cones.methods.tuned import Tuned

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

    def applied(self, pipeline: Any) -> Any:
        """Put the values in; afterwards every bit is as before."""
        live = dict(backbone_for(pipeline).module.named_parameters())
        whole = {
            name: live[name]
            .detach()
            .clone()
            .flatten()
            .scatter(0, at, self.values[name].to(live[name]))
            for name, at in self.positions.items()
        }
        shaped = {name: value.view_as(live[name]) for name, value in whole.items()}
        return Tuned(self.identifiers, shaped).applied(pipeline)

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
        losses = losses_of(pipeline, tasks, batch=self.batch)
        live = {n: w.float() for n, w in backbone_for(pipeline).weights("both").items()}

        def joint(step: int) -> Any:
            each = [loss.at(step, seed=seed) for loss in losses]
            return lambda weights: sum(one(weights) for one in each)

        total = {name: torch.zeros_like(w) for name, w in live.items()}
        for step in range(self.scoring):
            _, gradients = differentiate(joint(step), live, step=step)
            for name, gradient in gradients.items():
                total[name] += gradient
        positions = {}
        for name, weight in live.items():
            count = max(1, round(self.density * weight.numel()))
            best = (weight * total[name]).abs().flatten().topk(count).indices
            positions[name] = best.sort().values
        start = {n: live[n].flatten()[at] for n, at in positions.items()}
        leaves = leaves_of(start)

        def loss_of(step: int) -> Tensor:
            mixed = {
                n: w.flatten().scatter(0, positions[n], leaves[n]).view_as(w)
                for n, w in live.items()
            }
            return joint(self.scoring + step)(mixed)

        descend(
            list(leaves.values()),
            loss_of,
            steps=self.steps,
            rate=self.rate,
            label="shira",
            notify=on_progress,
        )
        learnt = {name: leaf.detach() for name, leaf in leaves.items()}
        return Sparse(tuple(t.subject.identifier for t in tasks), positions, learnt)
