"""Cones itself behind the interface of the rivals: find the concept neurons and shut them.

Several subjects are searched apart and their neurons joined (:class:`Cones`, Sec. 3.2), captured
together inside the union of these (:class:`Collaborative`, Sec. 3.3), or searched together among
all weights (:class:`Scratch`). :class:`Scenes` goes beyond the paper: its prior listens to scenes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from cones.concept import Concept
from cones.concept_file import load, save
from cones.find import Notify, Settings, find
from cones.generate import prepare
from cones.intervention import shut
from cones.methods.files import size_of
from cones.methods.loop import Task
from cones.together import PAPER, SHARE, find_together

FILE = "{}.cones.safetensors"


@dataclass(frozen=True, eq=False)
class Shut:
    """Concepts whose neurons are shut."""

    concepts: tuple[Concept, ...]

    @property
    def density(self) -> float:
        """Give the share of the searched weights that is shut, all concepts together."""
        union = self.concepts[0].mask
        for concept in self.concepts[1:]:
            union = union | concept.mask
        return union.density

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
    """Search every subject apart and join the neurons.

    Attributes:
        settings: Of the search; its seed is replaced by that of :meth:`fit`.
    """

    settings: Settings = field(default_factory=lambda: Settings(prior_prompts="noun"))
    joins: ClassVar[str | None] = "cones"  # the method whose results ``parts`` are

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        parts: Sequence[Shut] | None = None,
        on_progress: Notify | None = None,
    ) -> Shut:
        """Search every subject, or take ``parts``, what was found for each of them before."""
        if parts is not None:
            return Shut(tuple(concept for part in parts for concept in part.concepts))
        settings = replace(self.settings, seed=seed)
        found = (
            find(
                pipeline,
                task.subject,
                settings=settings,
                prior=self._prior(task),
                on_progress=on_progress,
            )
            for task in tasks
        )
        return Shut(tuple(found))

    def _prior(self, task: Task) -> Float[Tensor, "n 3 h w"] | None:
        """Take the pictures that all methods share, or None where scenes are to be drawn."""
        return task.prior if self.settings.prior_prompts == "noun" else None

    def _together(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        apart: tuple[Concept, ...],
        seed: int,
        on_progress: Notify | None,
    ) -> Shut:
        """Search the subjects together, inside the union of ``apart`` if there are any.

        The density of one subject is scaled as the paper's grows with the number of subjects.
        """
        density = self.settings.density
        if density is not None:
            density *= PAPER[min(len(tasks), len(PAPER)) - 1] / PAPER[0]
            if apart:
                density = min(density, SHARE * prepare(pipeline, apart).density)
        priors = [self._prior(task) for task in tasks]
        joint = find_together(
            pipeline,
            [task.subject for task in tasks],
            parts=apart,
            settings=replace(self.settings, seed=seed, density=density),
            priors=None if any(prior is None for prior in priors) else priors,
            on_progress=on_progress,
        )
        return Shut((joint,))


@dataclass(frozen=True)
class Scenes(Cones):
    """Search every subject apart with a prior that shows the category in scenes, and join."""

    settings: Settings = field(default_factory=Settings)
    joins: ClassVar[str | None] = "cones-scenes"


@dataclass(frozen=True)
class Collaborative(Cones):
    """Search every subject apart, then all together inside the union of their neurons."""

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        parts: Sequence[Shut] | None = None,
        on_progress: Notify | None = None,
    ) -> Shut:
        """Search as Cones does, then once more; a single subject is not searched again."""
        apart = super().fit(pipeline, tasks, seed=seed, parts=parts, on_progress=on_progress)
        if len(tasks) == 1:
            return apart
        return self._together(pipeline, tasks, apart.concepts, seed, on_progress)


@dataclass(frozen=True)
class Scratch(Cones):
    """Search all subjects together among all weights."""

    joins: ClassVar[str | None] = None

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        parts: Sequence[Shut] | None = None,
        on_progress: Notify | None = None,
    ) -> Shut:
        """Search once; a single subject is searched as Cones does."""
        if len(tasks) == 1:
            return super().fit(pipeline, tasks, seed=seed, parts=parts, on_progress=on_progress)
        return self._together(pipeline, tasks, (), seed, on_progress)
