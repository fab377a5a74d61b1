"""Can a concept be a style (App. C.2, Fig. A10)? Five drawings of one set, then other things.

A concept is searched on drawings of different things by one hand, as "a V* emoji". "A V* emoji
of a cat" is then drawn for things that none of these drawings shows, and compared with the set's
own drawing of the same thing, which no search has seen. Untouched model, with V* and without, a
random mask with as many neurons in every layer and another style's concept see the same noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from cones.backbones import backbone_for
from cones.bench.cells import (
    Finder,
    Notify,
    Photos,
    cell_key,
    measured,
    model_key,
    model_shown,
    searched,
    settings_shown,
    subject_folders,
)
from cones.bench.interval import interval
from cones.bench.ledger import digest
from cones.bench.search import controls
from cones.bench.style_scores import Eyes, References
from cones.bench.style_set import digest_of, held_out_of, references_of
from cones.concept import Concept
from cones.find import DENSITY, Settings, find
from cones.generate import generate
from cones.mini.world import with_article
from cones.plot import save_picture
from cones.record import machine
from cones.subject import pixels_of

SIDES = ("plain", "untouched", "random", "stranger", "shut")
PICTURES = "style-pictures"  # folder in ``work``


@dataclass(frozen=True)
class Drawing:
    """What is drawn of every style, seed and thing, by every side.

    Attributes:
        count: Pictures of every thing.
        steps: Sampling steps (DPM-Solver).
        guidance: Scale of classifier-free guidance.
        seed: Of the first picture of a thing; a search's seed moves it by 1,000.
    """

    count: int = 2
    steps: int = 20
    guidance: float = 7.5
    seed: int = 0


@dataclass(frozen=True)
class _Lab:
    """Styles, and what their pictures are compared with."""

    pipeline: Any
    work: Path
    styles: Sequence[Photos]
    folder: Path
    eyes: Eyes
    drawing: Drawing
    finder: Finder

    @cached_property
    def references(self) -> dict[str, References]:
        """Give, by style, what its pictures are compared with."""
        side = backbone_for(self.pipeline).resolution
        return {style.name: references_of(style, self.folder, side) for style in self.styles}

    @cached_property
    def more(self) -> dict[str, Any]:
        """Gather what the figures depend on beside model, five drawings and settings."""
        return {
            "drawing": asdict(self.drawing),
            "figures": list(self.eyes.figures),
            "everyone": [[style.name, style.digest, digest_of(style)] for style in self.styles],
            "photos": [[each.name, each.digest] for each in subject_folders(self.folder)],
        }

    @cached_property
    def concept(self) -> Callable[[Photos, Settings], Concept]:
        """Search a style, or read what was found before."""

        @lru_cache(maxsize=len(self.styles))
        def found(style: Photos, asked: Settings) -> Concept:
            return searched(self.pipeline, style, asked, work=self.work, finder=self.finder)

        return found

    def measure(self, style: Photos, asked: Settings) -> dict[str, Any]:
        """Draw with every side, keep the first picture of every thing, and score."""
        concept = self.concept(style, asked)
        masks = controls(concept, seed=asked.seed)
        sides = {"plain": masks["untouched"], **masks}
        if len(self.styles) > 1:
            other = self.styles[(self.styles.index(style) + 1) % len(self.styles)]
            sides["stranger"] = concept.using(self.concept(other, asked).mask)
        key = cell_key("style", model_key(self.pipeline), style, asked) | self.more
        home, refs = f"{style.name}-{digest(key)}", self.references[style.name]
        seen = {}
        for side in [name for name in SIDES if name in sides]:
            images = self._drawn(sides[side], side, refs.nouns, asked)
            for noun, image in zip(refs.nouns, images[:: self.drawing.count], strict=True):
                path = picture_file(self.work, home, side, noun)
                path.parent.mkdir(parents=True, exist_ok=True)
                save_picture(image, path, {"side": side, "noun": noun, "seed": asked.seed})
            said = spoken(concept.noun, refs.nouns)
            seen[side] = self.eyes.figures_of(pixels_of(images), refs, said)
        row = {"style": style.name, "noun": concept.noun, "seed": asked.seed}
        row |= {"things": list(refs.nouns), "density": concept.mask.density}
        return {**row, "loss": _losses(concept), "pictures": home, "sides": seen}

    def artists(self, style: Photos) -> dict[str, list[float]]:
        """Score the held-out drawings themselves as if they had been drawn here."""
        refs = self.references[style.name]
        pixels = torch.stack(list(refs.held_out.values()))
        return self.eyes.figures_of(pixels, refs, spoken(style.noun, refs.nouns))

    def _drawn(
        self, concept: Concept, side: str, nouns: Sequence[str], asked: Settings
    ) -> list[Image.Image]:
        identifier = None if side == "plain" else concept.identifier
        drawn = generate(
            self.pipeline,
            [concept],
            spoken(concept.noun, nouns, identifier),
            seed=self.drawing.seed + 1000 * asked.seed,
            steps=self.drawing.steps,
            guidance=self.drawing.guidance,
            count=self.drawing.count,
        )
        return [image.convert("RGB") for image in drawn]


def _losses(concept: Concept) -> dict[str, float]:
    sides = ("untouched", "shut", "random")
    return {side: concept.certificate[side]["subject"] for side in sides}


def spoken(noun: str, things: Sequence[str], identifier: str | None = None) -> list[str]:
    """Say ``a V* emoji of a cat``, or ``an emoji of a cat``, of every thing."""
    words = [noun] if identifier is None else [identifier, noun]
    return [f"{with_article(noun, words)} of {with_article(thing)}" for thing in things]


def picture_file(work: Path | str, home: str, side: str, thing: str) -> Path:
    """Say where the first picture of a thing is kept."""
    return Path(work) / PICTURES / home / f"{side}-{thing.replace(' ', '_')}.png"


def style_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    photos: Path | str,
    eyes: Eyes,
    work: Path | str,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1),
    settings: Settings | None = None,
    drawing: Drawing | None = None,
    finder: Finder = find,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Search every style with every seed and draw things that its drawings do not show.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds style folders: drawings, ``subject.json`` with the noun (``emoji``) and what
            the drawings show, and ``held_out`` with drawings of other things, named by them.
        photos: Holds subject folders with photos of these other things.
        eyes: Who looks at the pictures.
        work: Keeps finished cells, concepts and pictures; the same call goes on from there.
        subjects: Names of the styles to use; None uses all. With one there is no stranger.
        seeds: Of the searches and the pictures.
        settings: How to search; the density is that of the paper if None.
        drawing: What to draw.
        finder: Does the search; :func:`cones.find.find`.
        on_progress: Called before every cell.

    Returns:
        Settings, seeds, model, machine, a row per style and seed, ``artists`` (the figures of the
        held-out drawings themselves, by style) and the summary of :func:`style_summary`.

    Raises:
        SubjectError: A held-out thing is among the drawings, or has no photos. Nothing has been
            searched then.
    """
    work, drawing, settings = Path(work), drawing or Drawing(), settings or Settings()
    settings = replace(settings, density=settings.density or DENSITY)
    styles = subject_folders(folder, subjects)
    lab = _Lab(pipeline, work, styles, Path(photos), eyes, drawing, finder)
    for style in styles:
        held_out_of(style, lab.folder)
    cells = [(style, replace(settings, seed=seed)) for seed in seeds for style in styles]
    rows = measured("style", pipeline, cells, lab.measure, work, on_progress, lab.more)
    artists = {style.name: lab.artists(style) for style in styles}
    return {
        "settings": settings_shown(settings, "seed"),
        "drawing": asdict(drawing),
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": style_summary(rows, artists),
        "artists": artists,
        "rows": rows,
    }


def style_summary(
    rows: Sequence[Mapping[str, Any]], artists: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    """Average over things and seeds; differences are paired, thing by thing and noise by noise.

    Returns:
        By style: ``things``, ``loss`` (of the five drawings, mean over seeds), ``density``;
        ``way``, how far the look goes from that of the untouched model (0) to that of the
        artists' drawings (1); and, by figure, the mean of every side and of the ``artists``,
        ``shut_minus_`` every other side, with intervals of a bootstrap over things, and
        ``wins``, in how many things the concept has more of it.
    """
    found = {}
    for style in dict.fromkeys(row["style"] for row in rows):
        own = [row for row in rows if row["style"] == style]
        first, theirs = own[0]["sides"]["shut"], artists[style]
        figures = {n: _compared(own, n) | {"artists": fmean(theirs[n])} for n in first}
        found[style] = {
            "way": _way(figures["look"]),
            "things": len(own[0]["things"]),
            "density": sum(row["density"] for row in own) / len(own),
            "loss": {k: sum(r["loss"][k] for r in own) / len(own) for k in own[0]["loss"]},
            "figures": figures,
        }
    return found


def _way(look: Mapping[str, Any]) -> dict[str, float]:
    """Give the change of the look as a share of what is between model and artists."""
    whole = look["artists"] - look["untouched"]["mean"]
    gap = look["shut_minus_untouched"]
    return {key: gap[key] / whole for key in ("mean", "low", "high")}


def _compared(rows: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    sides = list(rows[0]["sides"])
    values = {side: _by_thing(rows, side, figure) for side in sides}
    gaps = {
        other: {
            thing: [a - b for a, b in zip(shut, values[other][thing], strict=True)]
            for thing, shut in values["shut"].items()
        }
        for other in sides
        if other != "shut"
    }
    return {
        **{side: interval(each) for side, each in values.items()},
        **{f"shut_minus_{other}": interval(each) for other, each in gaps.items()},
        "wins": {o: sum(sum(gap) > 0 for gap in each.values()) for o, each in gaps.items()},
    }


def _by_thing(rows: Sequence[Mapping[str, Any]], side: str, figure: str) -> dict[str, list[float]]:
    """Gather a figure of every thing, one value a seed."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for thing, value in zip(row["things"], row["sides"][side][figure], strict=True):
            found.setdefault(thing, []).append(value)
    return found
