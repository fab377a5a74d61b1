"""Cones itself, alone and for several subjects, and the controls that could have failed.

Every control draws with the same words and noise. A random mask asks whether any mask would do,
a matched one whether such sizes would, a shuffled one whether another individual would; without
the identifier nothing should change; in words is as good as it can get without photos.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from cones import Mask, Settings, Subject, find, find_jointly
from experiments.lab import Lab
from experiments.methods.fits import Task, fitted
from experiments.methods.learnt import Fitted, Shut, untouched
from experiments.subjects import Example

DEFAULT, PAPER = Settings(), Settings.paper()
BINS = 64  # of |theta| in one parameter
CONTROLS = ("untouched", "random", "random-matched", "shuffled", "no-identifier", "words")


@dataclass(frozen=True)
class Cones:
    """Search every subject apart and join the neurons (Secs. 3.1 and 3.2)."""

    budget: int = DEFAULT.score_steps + DEFAULT.steps
    settings: Mapping[str, object] = field(default_factory=dict)  # changes to the defaults
    paper: bool = False  # change the paper's settings instead
    photos: int | None = None  # how many; None is all
    masked: bool = False  # count the loss where the subject is

    @property
    def name(self) -> str:
        """Give its name in METHODS."""
        return "cones-paper" if self.paper else "cones"

    def fit(self, lab: Lab, task: Task) -> Shut:
        """Search; the pipeline is as before afterwards."""
        if len(task.examples) > 1:
            apart = [fitted(lab, self, [each], seed=task.seed) for each in task.examples]
            return joined([each for each in apart if isinstance(each, Shut)])
        example = task.examples[0]
        subject = example.subject(lab.model.size, photos=self.photos, masked=self.masked)
        return self.searched(lab, example, subject, task.seed)

    def searched(self, lab: Lab, example: Example, subject: Subject, seed: int) -> Shut:
        """Search the neurons of some photos under the words of a subject."""
        budget = lab.effort.budget(self.budget)
        concept = find(
            lab.pipeline,
            subject,
            settings=self.chosen(lab, budget, seed),
            others=example.folder / "other",
            work=lab.work / "search",
            progress=lab.progress,
        )
        return Shut((concept,), (example.phrase,), budget)

    def chosen(self, lab: Lab, budget: int, seed: int) -> Settings:
        """Give the settings that make ``budget`` gradients."""
        settings = (PAPER if self.paper else DEFAULT).changed(self.settings)
        draws = 2 * lab.effort.draws  # of the certificate
        changes: dict[str, object] = {"seed": seed, "draws": draws, "steps": budget}
        if settings.rule == "refine":
            scoring = min(settings.score_steps, max(1, budget // 4))
            changes |= {"score_steps": scoring, "steps": max(1, budget - scoring)}
        if lab.effort.gradients is not None:
            changes["prior_count"] = min(settings.prior_count, lab.effort.prior)
            changes["prior_steps"] = min(settings.prior_steps, lab.effort.inference_steps)
        return settings.changed(changes)


@dataclass(frozen=True)
class Jointly(Cones):
    """Search several subjects under the sum of their losses (Sec. 3.3)."""

    collaborative: bool = True  # inside the union of what was found of each; else from scratch

    @property
    def name(self) -> str:
        """Give its name in METHODS."""
        return "cones-collaborative" if self.collaborative else "cones-joint"

    def fit(self, lab: Lab, task: Task) -> Shut:
        """Search each alone if need be, then all together."""
        apart = None
        if self.collaborative:
            plain = Cones(self.budget, self.settings, self.paper)
            apart = fitted(lab, plain, task.examples, seed=task.seed)
        budget = lab.effort.budget(self.budget)
        settings = self.chosen(lab, budget, task.seed)
        changes = {n: v for n, v in vars(settings).items() if v != getattr(DEFAULT, n)}
        changes |= {n: v for n, v in self.settings.items() if n == "density"}  # else the paper's
        concept = find_jointly(
            lab.pipeline,
            [each.subject(lab.model.size) for each in task.examples],
            within=reduce(or_, apart.concepts) if isinstance(apart, Shut) else None,
            others=[each.folder / "other" for each in task.examples],
            work=lab.work / "search",
            progress=lab.progress,
            **changes,
        )
        taken = budget + (apart.gradients if apart else 0)
        return Shut((concept,), tuple(each.phrase for each in task.examples), taken)


@dataclass(frozen=True)
class Control:
    """What changes Cones, or takes its place, so that a comparison could fail."""

    kind: str  # in CONTROLS
    budget: int = DEFAULT.score_steps + DEFAULT.steps
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Give its name in METHODS."""
        return self.kind

    def fit(self, lab: Lab, task: Task) -> Fitted:
        """Make the control; all but ``untouched``, ``words`` and ``shuffled`` need the search."""
        method = Cones(self.budget, self.settings)
        if self.kind in ("untouched", "words"):
            plain = untouched(lab, task.examples)
            said = tuple(each.in_words for each in task.examples)
            return replace(plain, phrases=said) if self.kind == "words" else plain
        if self.kind == "shuffled":
            return joined([self._shuffled(lab, each, task.seed) for each in task.examples])
        found = fitted(lab, method, task.examples, seed=task.seed)
        if not isinstance(found, Shut):
            return found
        if self.kind == "no-identifier":
            return replace(found, phrases=tuple(each.plain for each in task.examples))
        draw = torch.Generator().manual_seed(task.seed)
        masks = [
            concept.mask.random_like(draw)
            if self.kind == "random"
            else matched(concept.mask, lab.model.weights(), draw)
            for concept in found.concepts
        ]
        pairs = zip(found.concepts, masks, strict=True)
        return replace(found, concepts=tuple(concept.using(mask) for concept, mask in pairs))

    def _shuffled(self, lab: Lab, example: Example, seed: int) -> Shut:
        """Search another individual of the noun under the words of the subject."""
        pixels = example.part("stranger", lab.model.size)
        subject = Subject(pixels, example.noun, example.identifier)
        return Cones(self.budget, self.settings).searched(lab, example, subject, seed)


def matched(mask: Mask, weights: Mapping[str, Tensor], generator: torch.Generator) -> Mask:
    """Draw a mask with the same counts whose ``|theta|`` are distributed as in ``mask``.

    In each parameter, the equally full bins of ``|theta|`` get as many neurons as they have there.
    """
    drawn = {}
    for name in sorted(mask):
        order = weights[name].detach().abs().reshape(-1).argsort(stable=True).cpu()
        held = torch.isin(order, mask.indices[name])
        parts = [
            each[torch.randperm(len(each), generator=generator)[: int(hit.sum())]]
            for each, hit in zip(order.chunk(BINS), held.chunk(BINS), strict=True)
        ]
        drawn[name] = torch.cat(parts).sort().values
    return Mask(mask.shapes, drawn)


def joined(parts: list[Shut]) -> Shut:
    """Put what was found of several subjects together."""
    concepts = tuple(concept for part in parts for concept in part.concepts)
    phrases = tuple(phrase for part in parts for phrase in part.phrases)
    return Shut(concepts, phrases, sum(part.gradients for part in parts))
