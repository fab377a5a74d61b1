"""Rival methods behind one interface, so that a comparison is one loop.

``METHODS[name]().fit(pipeline, tasks, seed=0)`` gives a customization; drawing inside ``with
customization.applied(pipeline):`` draws with it, and afterwards every bit of the pipeline is as
before. A new method is one new file here and one line in ``METHODS``.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from cones.find import Notify
from cones.methods.cones import Collaborative, Cones, Scenes, Scratch, Shut
from cones.methods.custom_diffusion import CrossAttention, CustomDiffusion
from cones.methods.dreambooth import DreamBooth, WholeUNet
from cones.methods.loop import Task
from cones.methods.lora import LoRA, LowRank
from cones.methods.merge import Merged
from cones.methods.shira import SHiRA, Sparse
from cones.methods.textual_inversion import TextualInversion, Words

__all__ = ["LEARNT", "METHODS", "SEVERAL", "Customization", "Method", "Task"]


@runtime_checkable
class Customization(Protocol):
    """What a method has learnt."""

    def applied(self, pipeline: Any) -> AbstractContextManager[None]:
        """Draw with it until the block ends; afterwards every bit is as before."""
        ...

    def save(self, folder: Path) -> int:
        """Write it in the format its users know, and give the bytes."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        ...


@runtime_checkable
class Method(Protocol):
    """A method; its settings are its fields.

    A class with ``joins``, the name of a method, also takes ``parts``: what that method learnt of
    every task alone. It then learns only what joining them takes.
    """

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> Customization:
        """Learn one subject or several; the pipeline's weights are not changed."""
        ...


METHODS: dict[str, type[Method]] = {
    "cones": Cones,
    "cones-collaborative": Collaborative,
    "cones-scenes": Scenes,
    "cones-scratch": Scratch,
    "custom-diffusion": CustomDiffusion,
    "custom-diffusion-merged": Merged,
    "dreambooth": DreamBooth,
    "lora": LoRA,
    "shira": SHiRA,
    "textual-inversion": TextualInversion,
}
SEVERAL = ("cones-collaborative", "cones-scratch", "custom-diffusion-merged")
"""Methods that differ from another one only where there are several subjects."""
LEARNT: dict[str, type[Customization]] = {
    "cones": Shut,
    "cones-collaborative": Shut,
    "cones-scenes": Shut,
    "cones-scratch": Shut,
    "custom-diffusion": CrossAttention,
    "custom-diffusion-merged": CrossAttention,
    "dreambooth": WholeUNet,
    "lora": LowRank,
    "shira": Sparse,
    "textual-inversion": Words,
}
