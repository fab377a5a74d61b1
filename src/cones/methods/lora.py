"""LoRA through peft: low-rank updates of the attention projections, what most people use today.

Source: Hu et al., "LoRA" (2022), applied to diffusion as in DreamBooth-LoRA: rank 4, alpha 4,
Gaussian ``A`` and zero ``B``, on the query, key, value and output projections of self- and
cross-attention, DreamBooth's loss with the prior preserved. Deviations: as in DreamBooth's file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cones.backbones import backbone_for
from cones.errors import ConesError
from cones.find import Notify
from cones.methods.files import require, size_of, write
from cones.methods.loop import Task, joint_loss, trained

FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
ADAPTER = "cones"


@dataclass(frozen=True, eq=False)
class LowRank:
    """Low-rank updates, stored as diffusers stores them.

    Attributes:
        identifiers: The words of the subjects.
        weights: Matrices ``A`` and ``B`` under peft's names, without the adapter's.
        rank: Of the updates.
    """

    identifiers: tuple[str, ...]
    weights: Mapping[str, Tensor]
    rank: int

    @contextmanager
    def applied(self, pipeline: Any) -> Iterator[None]:
        """Add the updates; afterwards the U-Net has its own layers and weights again."""
        backbone = backbone_for(pipeline)
        for identifier in self.identifiers:
            backbone.register(identifier)
        with adapted(pipeline, rank=self.rank, seed=0) as matrices:
            with torch.no_grad():
                for name, matrix in matrices.items():
                    matrix.copy_(self.weights[name])
            yield

    def save(self, folder: Path) -> int:
        """Write ``pytorch_lora_weights.safetensors`` and give its size in bytes."""
        tensors = {f"unet.{name}": matrix for name, matrix in self.weights.items()}
        settings = {"identifiers": list(self.identifiers), "rank": self.rank}
        write(folder / FILE, tensors, settings)
        return size_of(folder)

    @classmethod
    def load(cls, folder: Path) -> "LowRank":
        """Read what :meth:`save` wrote."""
        path = require(folder / FILE)
        weights = {n.removeprefix("unet."): w for n, w in load_file(path.file).items()}
        return cls(tuple(path.settings["identifiers"]), weights, path.settings["rank"])


@contextmanager
def adapted(pipeline: Any, *, rank: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Add a fresh adapter to the U-Net until the block ends, and give its matrices.

    The names are those of peft without the adapter's: ``...to_k.lora_A.weight``.

    Raises:
        ConesError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConesError(
            "peft is not installed, expected it for LoRA; pip install 'cones[bench]'"
        ) from error
    module = backbone_for(pipeline).module
    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS)
    )
    trained = [p for p in module.parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.add_adapter(config, adapter_name=ADAPTER)
    try:
        yield {
            name.replace(f".{ADAPTER}.", "."): parameter
            for name, parameter in module.named_parameters()
            if f".{ADAPTER}." in name
        }
    finally:
        module.unload_lora()
        for parameter in trained:  # peft has frozen them
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class LoRA:
    """The method and its settings.

    Attributes:
        steps: Updates.
        rate: Learning rate.
        batch: Photos in an update, and as many prior pictures.
        rank: Of the updates.
    """

    steps: int = 800
    rate: float = 1e-4
    batch: int = 1
    rank: int = 4

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> LowRank:
        """Learn the subjects together; the pipeline's weights are not changed."""
        loss = joint_loss(pipeline, tasks, batch=self.batch)
        with adapted(pipeline, rank=self.rank, seed=seed) as matrices:
            long = {name.replace(".weight", f".{ADAPTER}.weight"): name for name in matrices}
            learnt = trained(
                {name: matrices[short] for name, short in long.items()},
                lambda leaves, step: loss.at(step, seed=seed)(leaves),
                steps=self.steps,
                rate=self.rate,
                label="lora",
                notify=on_progress,
            )
        weights = {long[name]: matrix for name, matrix in learnt.items()}
        return LowRank(tuple(t.subject.identifier for t in tasks), weights, self.rank)
