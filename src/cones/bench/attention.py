"""Does shutting draw the subject's outline in the attention of its word (Sec. 3.1, Fig. 2)?

The paper shows maps of drawn pictures, whose subject nobody has outlined. Here pictures are
composed, so that the true mask is known to the pixel; they are noised to several levels, and the
network's attention is recorded while it removes the noise. Untouched model, concept, a random mask
with as many neurons in every layer and another subject's concept see the same pictures and noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cones.attention import (
    Recording,
    record_attention,
    share_inside,
    token_positions,
    told_apart,
)
from cones.backbones import backbone_for
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
from cones.bench.interval import interval
from cones.bench.scenes import Scenes, compose
from cones.bench.search import controls
from cones.concept import Concept
from cones.find import DENSITY, Settings, find
from cones.generate import edit
from cones.intervention import shut
from cones.record import machine

WORDS = ("subject", "identifier", "noun", "place")
FIGURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "share": share_inside,
    "order": told_apart,
    "amount": lambda found, inside: found.mean((1, 2)),
}
PARTS = ("words", "levels", "layers")
DIGITS = 5
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Looks:
    """What is looked at.

    Attributes:
        count: Pictures of every subject, each with a prompt of its own.
        levels: Of noise, as shares of the timesteps of training.
        seed: Of pictures and noise.
    """

    count: int = 20
    levels: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    seed: int = 0


def attention_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    corpus: Path | str,
    work: Path | str,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    looks: Looks | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Measure how a word's attention lies on the subject's true mask, before and after shutting.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        corpus: Sprite corpus with other views of these subjects, see :mod:`cones.bench.scenes`.
        work: Keeps finished cells and concepts; those of ``cones bench search`` at the same
            settings are used again.
        subjects: Names of the folders to use; None uses all. With one there is no stranger.
        seeds: Of the searches.
        settings: How to search; the density is that of the paper if None.
        looks: What to look at.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, seeds, model, machine, a row per subject and seed, and the summary of
        :func:`attention_summary`.
    """
    work, looks = Path(work), looks or Looks()
    settings = settings or Settings()
    settings = replace(settings, density=settings.density or DENSITY)
    chosen = subject_folders(folder, subjects)
    following = dict(zip(chosen, [*chosen[1:], chosen[0]], strict=True))
    side = backbone_for(pipeline).resolution
    scenes = {
        photos: compose(corpus, photos.name, count=looks.count, side=side, seed=looks.seed)
        for photos in chosen
    }

    @lru_cache(maxsize=len(chosen))
    def concept_of(photos: Photos, asked: Settings) -> Concept:
        return searched(pipeline, photos, asked, work=work, finder=finder)

    def measure(photos: Photos, asked: Settings) -> dict[str, Any]:
        concept = concept_of(photos, asked)
        sides = controls(concept, seed=asked.seed)
        if len(chosen) > 1:
            sides["stranger"] = concept.using(concept_of(following[photos], asked).mask)
        seen = {name: looked(pipeline, one, scenes[photos], looks) for name, one in sides.items()}
        return {
            "subject": photos.name,
            "noun": photos.noun,
            "seed": asked.seed,
            "density": concept.mask.density,
            "area": _rounded(scenes[photos].inside.mean((1, 2))),
            "sides": seen,
        }

    cells = [(photos, replace(settings, seed=seed)) for seed in seeds for photos in chosen]
    more = {"looks": asdict(looks), "everyone": [[p.name, p.digest] for p in chosen]}
    rows = measured("attention", pipeline, cells, measure, work, on_progress, more)
    return {
        "settings": settings_shown(settings, "seed"),
        "looks": asdict(looks),
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": attention_summary(rows),
        "rows": rows,
    }


def looked(pipeline: Any, concept: Concept, scenes: Scenes, looks: Looks) -> dict[str, Any]:
    """Give the figures of one side: shut ``concept``, look at all pictures at every noise level.

    Returns:
        ``words``, by word one figure a picture, mean over noise levels; ``levels`` and
        ``layers``, of the subject's words, means over pictures; ``map``, where the subject's
        words look in the first picture, mean over noise levels.
    """
    edit(pipeline, [concept])  # makes its identifier known
    subject = f"{concept.identifier} {concept.noun}"
    prompts = [prompt.format(subject) for prompt in scenes.prompts]
    spoken = {
        "subject": [subject] * len(prompts),
        "identifier": [concept.identifier] * len(prompts),
        "noun": [concept.noun] * len(prompts),
        "place": list(scenes.places),
    }
    tokens = {
        word: [
            token_positions(pipeline.tokenizer, *pair) for pair in zip(prompts, said, strict=True)
        ]
        for word, said in spoken.items()
    }
    with shut(backbone_for(pipeline).module, concept.mask):
        recordings = _recorded(pipeline, prompts, scenes, looks)
    maps = {word: [_maps(each, tokens[word]) for each in recordings] for word in WORDS}
    layers = {
        layer: [_maps(each, tokens["subject"], layer) for each in recordings]
        for layer in recordings[0].layers
    }
    levels = zip(looks.levels, maps["subject"], strict=True)
    return {
        "words": {word: _figures(found, scenes.inside) for word, found in maps.items()},
        "levels": {str(level): _means([found], scenes.inside) for level, found in levels},
        "layers": {layer: _means(found, scenes.inside) for layer, found in layers.items()},
        "map": _rounded(torch.stack(maps["subject"]).mean(0)[0]),
    }


@torch.no_grad()
def _recorded(
    pipeline: Any, prompts: Sequence[str], scenes: Scenes, looks: Looks
) -> list[Recording]:
    """Record the attention at every noise level, the same noise in each."""
    backbone = backbone_for(pipeline)
    latents = backbone.latents(scenes.pixels)
    draw = torch.Generator().manual_seed(looks.seed)
    given = {
        "latents": latents,
        "noise": torch.randn(latents.shape, generator=draw),
        "condition": backbone.condition(prompts),
    }
    found = []
    for level in looks.levels:
        time = min(round(level * backbone.train_steps), backbone.train_steps - 1)
        with record_attention(backbone.module, images=len(prompts)) as recording:
            backbone.loss({}, timesteps=torch.full((len(prompts),), time), **given)
        found.append(recording)
    return found


def _maps(
    recording: Recording, tokens: Sequence[tuple[int, ...]], layer: str | None = None
) -> Float[Tensor, "images y x"]:
    """Map a word that stands elsewhere in every prompt."""
    layers = None if layer is None else [layer]
    maps = {where: recording.map(where, layers=layers) for where in set(tokens)}
    return torch.stack([maps[where][number] for number, where in enumerate(tokens)])


def _figures(found: Sequence[Tensor], inside: Float[Tensor, "images y x"]) -> Figures:
    """Take every figure of every picture, mean over noise levels, on the maps' own grid."""
    meant = F.adaptive_avg_pool2d(inside[:, None], found[0].shape[-2:])[:, 0]
    return {
        name: _rounded(torch.stack([figure(each, meant) for each in found]).mean(0))
        for name, figure in FIGURES.items()
    }


def _means(found: Sequence[Tensor], inside: Tensor) -> dict[str, float]:
    return {name: fmean(values) for name, values in _figures(found, inside).items()}


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=DIGITS).tolist()


def attention_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average over subjects, seeds and pictures; differences are paired picture by picture.

    Returns:
        ``area``, the share of attention that is equal everywhere. By word and figure: the mean
        of every side and ``shut_minus_`` every other side. ``levels`` and ``layers`` likewise,
        of the subject's words. ``wins``: in how many subjects more of the attention of the
        subject's words lies inside than with the other side, by figure.
    """
    sides = list(rows[0]["sides"])
    others = [name for name in sides if name != "shut"]

    def compared(values_of: Callable[[Mapping, str], Sequence[float]]) -> dict[str, Any]:
        def averaged(figure: Callable[[Mapping], Sequence[float]]) -> dict[str, float]:
            groups: dict[str, list[float]] = {}
            for row in rows:
                groups.setdefault(row["subject"], []).extend(figure(row))
            return interval(groups)

        def gap(row: Mapping, other: str) -> list[float]:
            pairs = zip(values_of(row, "shut"), values_of(row, other), strict=True)
            return [after - before for after, before in pairs]

        means = {name: averaged(lambda row, n=name: values_of(row, n)) for name in sides}
        gaps = {f"shut_minus_{n}": averaged(lambda row, n=n: gap(row, n)) for n in others}
        return {**means, **gaps}

    def by(part: str, name: str) -> dict[str, Any]:
        return {
            figure: compared(lambda r, s, f=figure: _listed(r["sides"][s][part][name][f]))
            for figure in FIGURES
        }

    first = rows[0]["sides"]["shut"]
    found = {part: {name: by(part, name) for name in first[part]} for part in PARTS}
    areas: dict[str, list[float]] = {}
    for row in rows:
        areas.setdefault(row["subject"], []).extend(row["area"])
    return {
        "area": interval(areas),
        "subjects": len(areas),
        "wins": {other: _wins(rows, other) for other in others},
        **found,
    }


def _listed(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _wins(rows: Sequence[Mapping[str, Any]], other: str) -> dict[str, int]:
    """Count the subjects in which shutting gives more of a figure than another side."""
    won: dict[str, int] = {}
    for figure in FIGURES:
        gaps: dict[str, list[float]] = {}
        for row in rows:
            values = {s: row["sides"][s]["words"]["subject"][figure] for s in ("shut", other)}
            gap = fmean(values["shut"]) - fmean(values[other])
            gaps.setdefault(row["subject"], []).append(gap)
        won[figure] = sum(fmean(each) > 0 for each in gaps.values())
    return won
