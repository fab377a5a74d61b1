"""Cones itself behind the interface of the rivals: find the concept neurons and shut them.

One subject is searched as ``cones find`` does; several are searched apart and their neurons
joined (Sec. 3.2), or captured together (Sec. 3.3) if ``together`` is set.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cones.concept import Concept
from cones.concept_file import load, save
from cones.find import Notify, Settings, find
from cones.generate import prepare
from cones.intervention import shut
from cones.methods.files import size_of
from cones.methods.loop import Task
from cones.together import find_together

FILE = "{}.cones.safetensors"


@dataclass(frozen=True, eq=False)
class Shut:
    """Concepts whose neurons are shut."""

    concepts: tuple[Concept, ...]

    @contextmanager
    def applied(self, pipeline: Any) -> Iterator[None]:
        """Shut the neurons of all concepts; afterwards every bit is as before."""
        mask = prepare(pipeline, self.concepts)
        with shut(pipeline.unet, mask):
            yield

    def save(self, folder: Path) -> int:
        """Write one concept file each, the mask in use alone, and give the bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, concept in enumerate(self.concepts):
            save(concept, folder / FILE.format(number), with_levels=False)
        return size_of(folder)

    @classmethod
    def load(cls, folder: Path) -> "Shut":
        """Read what :meth:`save` wrote."""
        return cls(tuple(load(path) for path in sorted(folder.glob(FILE.format("*")))))


@dataclass(frozen=True)
class Cones:
    """The method and its settings.

    Attributes:
        settings: Of the search; its seed is replaced by that of :meth:`fit`.
        together: Capture several subjects together inside the union of their neurons.
    """

    settings: Settings = field(default_factory=Settings)
    together: bool = False

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> Shut:
        """Search every subject; the pipeline's weights are not changed."""
        settings = replace(self.settings, seed=seed)
        found = tuple(
            find(
                pipeline,
                task.subject,
                settings=settings,
                prior=task.prior,
                on_progress=on_progress,
            )
            for task in tasks
        )
        if not self.together or len(tasks) == 1:
            return Shut(found)
        priors = [task.prior for task in tasks]
        joint = find_together(
            pipeline,
            [task.subject for task in tasks],
            parts=found,
            settings=settings,
            priors=None if any(prior is None for prior in priors) else priors,
            on_progress=on_progress,
        )
        return Shut((joint,))
