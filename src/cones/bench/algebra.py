"""Is a concept cleaner without what others hold too, and is what two of a noun share the noun?

Taken out of every concept: what several *other* subjects hold; and, where there are pictures of
other looks of its noun, what any or all of these hold. Beside each stands the concept without as
many of its own neurons in every layer, drawn at random. And the neurons that two subjects of one
noun share are shut alone, beside as large a random part of the subject's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

from cones.backbones import backbone_for
from cones.bench.algebra_page import CLEANED, FIGURES, SHARED, algebra_summary
from cones.bench.cells import (
    Finder,
    Notify,
    Photos,
    measured,
    model_shown,
    searched,
    settings_shown,
    subject_folders,
)
from cones.bench.search import Pictures, Scorer, scored
from cones.certificate import closed, means_of
from cones.concept import Concept
from cones.errors import SubjectError
from cones.find import Settings, find, loss_of
from cones.general import held_by, part_of
from cones.mask import ConceptMask
from cones.objective import ImplantingLoss
from cones.record import machine


@dataclass(frozen=True)
class Rule:
    """What counts as general.

    Attributes:
        others: Neurons that so many of the other subjects hold.
        looks: Other looks of a noun that are searched.
        samples: Held-out samples of each half of a loss.
    """

    others: int = 2
    looks: int = 2
    samples: int = 64


@dataclass(frozen=True)
class _Lab:
    """The subjects, the other looks of some nouns, and their concepts."""

    pipeline: Any
    work: Path
    settings: Settings
    rule: Rule
    chosen: Sequence[Photos]
    looks: Mapping[str, Sequence[Photos]]
    score: Scorer | None
    pictures: Pictures
    finder: Finder

    def concept(self, photos: Photos) -> Concept:
        """Search one subject, or read what was found before."""
        return searched(self.pipeline, photos, self.settings, work=self.work, finder=self.finder)

    @cached_property
    def masks(self) -> dict[str, ConceptMask]:
        """Give the mask of every subject."""
        return {photos.name: self.concept(photos).mask for photos in self.chosen}

    def loss(self, photos: Photos) -> ImplantingLoss:
        """Prepare a subject's loss, prior included."""
        subject = photos.subject(backbone_for(self.pipeline).resolution)
        cache = self.work / "prior"
        return loss_of(self.pipeline, subject, self.settings, cache_dir=cache)[0]

    def measure(self, loss: ImplantingLoss, mask: ConceptMask) -> dict[str, float]:
        """Measure the loss with a mask shut, on the same samples every time."""
        weights = closed(backbone_for(self.pipeline).weights(self.settings.scope), mask)
        parts = loss.parts(weights, samples=self.rule.samples, seed=self.settings.seed)
        return {**means_of(parts), "neurons": len(mask)}

    def draw(self) -> torch.Generator:
        """Give the generator of random parts."""
        return torch.Generator().manual_seed(self.settings.seed)

    def cleaned(self, photos: Photos, _: Settings) -> dict[str, Any]:
        """Measure a concept, and what is left of it without each kind of general neurons."""
        mine = self.masks[photos.name]
        others = [mask for name, mask in self.masks.items() if name != photos.name]
        general = {"others": held_by(others, min(self.rule.others, len(others)))}
        looks = [self.concept(look).mask for look in self.looks.get(photos.noun, ())]
        if looks:
            general |= {"any_look": held_by(looks, 1), "all_looks": held_by(looks, len(looks))}
        sides = {"untouched": ConceptMask.empty(mine.shapes), "concept": mine}
        for name, mask in general.items():
            sides[name] = mine - mask
            sides[f"{name}_random"] = mine - part_of(mine, mine & mask, self.draw())
        loss, concept = self.loss(photos), self.concept(photos)
        row = {"subject": photos.name, "noun": photos.noun, "seed": self.settings.seed}
        for name, mask in sides.items():
            row[name] = self.measure(loss, mask)
            if self.score is not None:
                subject = photos.subject(backbone_for(self.pipeline).resolution)
                row[name] |= scored(
                    self.pipeline,
                    concept.using(mask),
                    subject,
                    self.pictures,
                    self.score,
                    seed=self.settings.seed,
                )
        return row

    def shared(self, photos: Photos, _: Settings) -> dict[str, Any]:
        """Measure, for all pairs of one noun, the shared neurons on the first's photos."""
        family = [photos, *self.looks[photos.noun]]
        masks = {each.name: self.concept(each).mask for each in family}
        losses = {each.name: self.loss(each) for each in family}
        rows = []
        for on, other in permutations(masks, 2):
            both = masks[on] & masks[other]
            sides = {
                "untouched": ConceptMask.empty(both.shapes),
                "own": masks[on],
                "shared": both,
                "part": part_of(masks[on], both, self.draw()),
                "random": both.random_like(self.draw()),
            }
            measures = {name: self.measure(losses[on], mask) for name, mask in sides.items()}
            rows.append({"on": on, "other": other, **measures})
        return {"noun": photos.noun, "pairs": rows}


def algebra_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    score: Scorer | None,
    looks: Path | str | None = None,
    nouns: Sequence[str] = (),
    subjects: Sequence[str] | None = None,
    rule: Rule | None = None,
    settings: Settings | None = None,
    pictures: Pictures | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Clean every concept in every way, and shut what two subjects of a noun share.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished cells and concepts; those of ``cones bench search`` at the same
            settings are used again.
        score: Judges pictures; None draws none.
        looks: Holds folders of other looks, in the same layout; None does without.
        nouns: Whose looks are searched; each must be the noun of a subject.
        subjects: Names of the folders to use, at least two; None uses all.
        rule: What counts as general.
        settings: How to search.
        pictures: What to draw.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, rule, model, machine, ``cleaned`` (a row per subject), ``shared`` (a row per
        pair of a noun, by the subject it is measured on), and the summary of both.

    Raises:
        SubjectError: There are too few subjects, or looks of a noun.
    """
    work, settings, rule = Path(work), settings or Settings(), rule or Rule()
    chosen = subject_folders(folder, subjects)
    if len(chosen) < 2:
        raise SubjectError("found one subject, expected at least two to compare; name more")
    found = {} if looks is None else _looks(looks, nouns, rule.looks, chosen)
    pictures = pictures or Pictures(count=1)
    lab = _Lab(pipeline, work, settings, rule, chosen, found, score, pictures, finder)
    more = {"rule": asdict(rule), "everyone": [[p.name, p.digest] for p in chosen]}
    more |= {"looks": [[p.name, p.digest] for each in found.values() for p in each]}
    drawn = {} if score is None else {"pictures": asdict(pictures), "scores": list(score.figures)}
    cells = [(photos, settings) for photos in chosen]
    cleaned = measured(CLEANED, pipeline, cells, lab.cleaned, work, on_progress, {**more, **drawn})
    firsts = {photos.noun: photos for photos in reversed(chosen)}
    cells = [(firsts[noun], settings) for noun in found]
    families = measured(SHARED, pipeline, cells, lab.shared, work, on_progress, more)
    shared = [{"noun": row["noun"], **pair} for row in families for pair in row["pairs"]]
    return {
        "settings": settings_shown(settings),
        "rule": asdict(rule),
        "pictures": asdict(pictures) if score is not None else None,
        "subjects": [photos.name for photos in chosen],
        "looks": {noun: [photos.name for photos in each] for noun, each in found.items()},
        "model": model_shown(pipeline),
        "machine": machine(),
        "figures": [name for name in FIGURES if name in cleaned[0]["concept"]],
        "summary": algebra_summary(cleaned, shared),
        "cleaned": cleaned,
        "shared": shared,
    }


def _looks(
    root: Path | str, nouns: Sequence[str], count: int, chosen: Sequence[Photos]
) -> dict[str, list[Photos]]:
    """Choose the first looks of every noun."""
    folders = subject_folders(root)
    found = {noun: [p for p in folders if p.noun == noun][:count] for noun in nouns}
    known = {photos.noun for photos in chosen}
    for noun, each in found.items():
        if len(each) < count or noun not in known:
            raise SubjectError(
                f"found {len(each)} looks of {noun!r}; expected {count}, and a subject of that "
                f"noun ({', '.join(sorted(known))}); choose another noun"
            )
    return found
