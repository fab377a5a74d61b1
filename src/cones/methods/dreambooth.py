"""DreamBooth: train all weights of the U-Net on the photos, and preserve the prior.

Source: Ruiz et al., "DreamBooth" (2023), Sec. 3; defaults of Cones, Appendix B.2. Deviations: the
identifier is a registered word that starts as a copy of a rare one, not a rare word itself, and
timesteps are stratified over the batch; both as in the search of Cones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from cones.backbones import backbone_for
from cones.find import Notify
from cones.methods.files import require, size_of, write
from cones.methods.loop import Task, joint_loss, trained
from cones.methods.tuned import Tuned

FILE = "diffusion_pytorch_model.safetensors"  # what diffusers calls a U-Net's weights


@dataclass(frozen=True, eq=False)
class WholeUNet(Tuned):
    """A whole U-Net, stored as diffusers stores it."""

    def save(self, folder: Path) -> int:
        """Write ``unet/diffusion_pytorch_model.safetensors`` and give its size in bytes."""
        write(folder / "unet" / FILE, self.weights, {"identifiers": list(self.identifiers)})
        return size_of(folder)

    @classmethod
    def load(cls, folder: Path) -> "WholeUNet":
        """Read what :meth:`save` wrote."""
        path = require(folder / "unet" / FILE)
        return cls(tuple(path.settings["identifiers"]), load_file(path.file))


@dataclass(frozen=True)
class DreamBooth:
    """The method and its settings.

    Attributes:
        steps: Updates.
        rate: Learning rate.
        batch: Photos in an update, and as many prior pictures.
    """

    steps: int = 800
    rate: float = 5e-6
    batch: int = 1

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> WholeUNet:
        """Learn the subjects together; the pipeline's weights are not changed."""
        loss = joint_loss(pipeline, tasks, batch=self.batch)
        learnt = trained(
            dict(backbone_for(pipeline).module.named_parameters()),
            lambda leaves, step: loss.at(step, seed=seed)(leaves),
            steps=self.steps,
            rate=self.rate,
            label="dreambooth",
            notify=on_progress,
        )
        return WholeUNet(tuple(task.subject.identifier for task in tasks), learnt)
