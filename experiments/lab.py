"""What every case of a study shares: the model, the subjects, the folder of what is kept.

A laboratory computes what several methods need once, such as the word a subject starts from and
the prior pictures of its noun, so that all of them see the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.files import write_atomic
from cones.fingerprint import Fingerprint
from cones.models import Model, Pipeline, model_for
from cones.models.sampling import sample
from cones.models.unet import computing
from cones.models.words import vectors
from cones.search.prior import pictures
from cones.search.resume import Progress, silent
from cones.search.settings import Settings
from cones.search.start import Start, choose_start
from experiments.metrics.examiner import Examiner
from experiments.subjects import Example


@dataclass(frozen=True)
class Effort:
    """How much is done for each case; part of what names its record."""

    prompts: int = 10  # one a place, at most ten
    pictures: int = 8  # of each prompt
    inference_steps: int = 20
    gradients: int | None = None  # no method takes more; None leaves each its own budget
    prior: int = 32  # pictures, of a rival; a search has a setting for its own
    draws: int = 64  # noised samples behind a loss or drift; a certificate takes twice as many

    def budget(self, wanted: int) -> int:
        """Give the number of gradients that a method may take of those it wants."""
        return wanted if self.gradients is None else min(wanted, self.gradients)


QUICK = Effort(prompts=2, pictures=2, inference_steps=8, gradients=12, prior=4, draws=16)
T = TypeVar("T")
PRECISIONS = ("float32", "bfloat16")
APART = 10_000  # between the seeds of one prompt and the next


@dataclass(frozen=True, eq=False)
class Lab:
    """A model, which every method leaves as it was, bit for bit; subjects and a work folder."""

    pipeline: Pipeline
    work: Path  # keeps records, fits and drawn pictures
    examples: Mapping[str, Example]  # by key
    effort: Effort = field(default_factory=Effort)
    examiner: Examiner | None = None  # None in studies that draw nothing
    progress: Progress = silent
    precision: str = PRECISIONS[0]  # of networks; bfloat16 keeps weights and sums in float32

    @cached_property
    def model(self) -> Model:
        """Give the functions of the model."""
        return model_for(self.pipeline)

    @cached_property
    def key(self) -> str:
        """Name the weights of the model."""
        return Fingerprint.of(self.model.weights(), self.model.name).weights

    def chosen(self, keys: Sequence[str]) -> tuple[Example, ...]:
        """Give subjects by key."""
        return tuple(self.examples[key] for key in keys)

    @cached_property
    def _memory(self) -> dict[tuple[str, ...], Any]:
        return {}

    def once(self, at: tuple[str, ...], found: Callable[[], T]) -> T:
        """Give what is found of the model of this lab the first time that it is asked for."""
        if at not in self._memory:
            self._memory[at] = found()
        return self._memory[at]

    def start(self, example: Example) -> dict[str, Tensor]:
        """Give the vectors that a subject's identifier starts from, those of Cones."""
        word = self.heard(example).word
        return self.once(("start", word), lambda: vectors(self.pipeline, word))

    def heard(self, example: Example) -> Start:
        """Choose the word that an identifier starts from, as a search does."""
        name = f"{self.key[:12]}-{example.digest}-{example.identifier}.json"
        path = self.work / "starts" / name.replace("*", "")
        if not path.exists():
            named = {"noun": example.noun, "identifier": example.identifier}
            found = choose_start(self.model, example.seen(self.model.size), **named)
            write_atomic(path, json.dumps(found).encode())
        return Start(*json.loads(path.read_text("utf-8")))

    def prior(self, example: Example, *, seed: int) -> Float[Tensor, "n 3 h w"]:
        """Draw pictures of the plain noun with the untouched model, the same for all methods."""
        given, size = Settings(), self.model.size
        steps = min(given.prior_steps, self.effort.inference_steps)
        how = {"num_inference_steps": steps, "guidance_scale": given.prior_guidance}
        name = "-".join([self.key[:12], self.precision, *map(str, how.values())])
        with self.computing():
            return pictures(
                partial(sample, self.pipeline, **how),
                [example.plain] * self.effort.prior,
                seed=seed,
                size=size,
                folder=self.work / "prior" / name,
                progress=self.progress,
            )

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Draw every prompt with every seed with the model as it is now, prompt by prompt.

        Each prompt has noise of its own: of equal noise the same thing comes out in every place.
        """
        with self.computing():
            return sample(
                self.pipeline,
                [said for said in prompts for _ in seeds],
                seeds=[seed + APART * k for k in range(len(prompts)) for seed in seeds],
                num_inference_steps=self.effort.inference_steps,
                progress=self.progress,
            )

    def computing(self) -> AbstractContextManager[None]:
        """Let networks compute in the precision of the lab while the context is open."""
        plain = self.precision == PRECISIONS[0]
        return computing(self.model, "pipeline" if plain else self.precision)

    @property
    def told(self) -> dict[str, object]:
        """Give what every record depends on."""
        found = {"model": self.key, "effort": asdict(self.effort), "precision": self.precision}
        return found | {"defaults": vars(Settings())}
