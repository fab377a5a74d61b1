"""Measure the built-in model: ``python -m cones.mini.quality --corpus DIR --out FILE``.

Does a picture show what its prompt names? The generator's own parts have no say in that: the
judge is a linear classifier on the features of EfficientNet-Lite0, fitted on composed pictures of
the corpus, and its accuracy on other composed pictures stands beside every figure, as the most
that could be reached; so does its accuracy on those pictures sent through the autoencoder, the
most that a perfect U-Net could reach. Half of the prompts put the place first, as no training
caption does.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from cones.backbones import load_pipeline
from cones.encoders import load_clip
from cones.metrics import ImageEncoder, load_judge
from cones.mini import weights_path
from cones.mini.data import HELD_OUT, Corpus, pictures
from cones.mini.probe import Probe, shares
from cones.mini.world import NOUNS, PLACES, with_article
from cones.record import machine, write_json
from cones.subject import pixels_of

UNSEEN = ("{place}, a photo of {thing}", "{place}, {thing}")  # word orders of no caption
KNOWN = ("a photo of {thing} {place}", "a picture of {thing} {place}")
GUIDANCE = 7.5
BATCH = 16
FIT_SEED = 7  # of composed pictures, apart from pretraining's


@dataclass(frozen=True)
class Asked:
    """One prompt, what it names and the seed of its picture."""

    prompt: str
    noun: str
    place: str
    seed: int


def asked(
    templates: Sequence[str], places: Sequence[str], per_noun: int, seed: int
) -> list[Asked]:
    """Give ``per_noun`` prompts of every noun, over places and templates in turn."""
    found = []
    for number in range(per_noun * len(NOUNS)):
        noun = list(NOUNS)[number // per_noun]
        place = places[number % len(places)]
        said = templates[number % len(templates)].format(
            thing=with_article(noun), place=PLACES[place]
        )
        found.append(Asked(said, noun, place, seed + number))
    return found


def composed(corpus: Corpus, number: int, seed: int) -> tuple[np.ndarray, str, str]:
    """Compose picture ``number`` of a single thing as in training; give its noun and place too."""
    rng = np.random.default_rng((seed, number))
    noun = list(NOUNS)[number % len(NOUNS)]
    sprite = corpus.sprite(noun, corpus.drawn(noun, rng), rng)
    background = corpus.background(rng)
    canvas = background.image.copy()
    corpus.stand(canvas, [sprite], background, rng)
    return np.asarray(canvas), noun, background.label


class Examiner:
    """The judge and its two classifiers, for nouns and for places.

    Args:
        judge: Embeds pictures.
        corpus: Composes pictures.
        fitted: Number of pictures it is fitted on.
        held_out: Number of other pictures it is itself examined with.
    """

    def __init__(self, judge: ImageEncoder, corpus: Corpus, *, fitted: int, held_out: int) -> None:
        """Fit both classifiers and examine them."""
        self.judge = judge
        known = [composed(corpus, number, FIT_SEED) for number in range(fitted)]
        fresh = [composed(corpus, HELD_OUT + number, FIT_SEED) for number in range(held_out)]
        features = judge.images(pixels_of([image for image, _, _ in known]))
        self.nouns = Probe.fit(features, [noun for _, noun, _ in known])
        self.places = Probe.fit(features, [place for _, _, place in known])
        self.fresh = pixels_of([image for image, _, _ in fresh])
        self.fresh_nouns = [noun for _, noun, _ in fresh]
        self.fresh_places = [place for _, _, place in fresh]
        self.own = self.examine(self.fresh, self.fresh_nouns, self.fresh_places)

    def examine(
        self, pixels: Float[Tensor, "n 3 h w"], nouns: Sequence[str], places: Sequence[str]
    ) -> dict[str, Any]:
        """Give the shares of pictures whose noun and place are named right."""
        features = self.judge.images(pixels)
        return {
            "noun": shares(self.nouns.name(features), nouns),
            "place": shares(self.places.name(features), places),
        }


def drawn(pipeline: Any, asks: Sequence[Asked], *, steps: int) -> list[Image.Image]:
    """Draw one picture of every prompt; a picture depends on its own seed alone."""
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in range(0, len(asks), BATCH):
        part = asks[start : start + BATCH]
        generators = [torch.Generator().manual_seed(ask.seed) for ask in part]
        result = pipeline(
            [ask.prompt for ask in part],
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generators,
        )
        images += result.images
    return images


@torch.no_grad()
def reconstructed(vae: Any, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Send pictures in [0, 1] through the autoencoder: no U-Net can draw better ones."""
    found = [
        vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample
        for part in pixels.split(BATCH)
    ]
    return (torch.cat(found) / 2 + 0.5).clamp(0, 1)


def psnr(found: Float[Tensor, "n 3 h w"], pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Measure likeness in decibels, ``-10 log10(mean square error)``, of pictures in [0, 1]."""
    return -10 * (found - pixels).square().flatten(1).mean(1).log10()


def zero_shot(clip: Any, pixels: Float[Tensor, "n 3 h w"]) -> Int[Tensor, " n"]:
    """Choose the noun whose ``a photo of a <noun>`` is nearest to each picture."""
    texts = clip.texts([f"a photo of {with_article(noun)}" for noun in NOUNS])
    images = torch.cat([clip.images(part) for part in pixels.split(64)])
    return (F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T).argmax(1)


def model_figures(
    pipeline: Any,
    clip: Any,
    judge: ImageEncoder,
    corpus: Corpus,
    *,
    per_noun: int = 12,
    steps: int = 20,
    fitted: int = 1600,
    held_out: int = 400,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """Measure the model.

    Args:
        pipeline: The model.
        clip: Its CLIP.
        judge: Embeds pictures; the generator never saw it.
        corpus: Composes pictures.
        per_noun: Pictures drawn of every noun, for each kind of prompt.
        steps: Sampling steps.
        fitted: Composed pictures the judge's classifiers are fitted on.
        held_out: Composed pictures for everything else.
        seed: Of the first picture.

    Returns:
        The figures, and the pictures of each kind of prompt, noun by noun.
    """
    examiner = Examiner(judge, corpus, fitted=fitted, held_out=held_out)
    places = [place for place in PLACES if place in examiner.places.names]
    figures: dict[str, Any] = {
        "composed_pictures": examiner.own,
        "reconstructed_pictures": examiner.examine(
            reconstructed(pipeline.vae, examiner.fresh),
            examiner.fresh_nouns,
            examiner.fresh_places,
        ),
    }
    sheets = {}
    for kind, templates in (("unseen_prompts", UNSEEN), ("plain_prompts", KNOWN)):
        asks = asked(templates, places, per_noun, seed)
        sheets[kind] = drawn(pipeline, asks, steps=steps)
        shown = examiner.examine(
            pixels_of(sheets[kind]), [ask.noun for ask in asks], [ask.place for ask in asks]
        )
        figures[kind] = {"prompts": list(templates), **shown}
    whole, _ = pictures(corpus, range(HELD_OUT, HELD_OUT + held_out), FIT_SEED)
    pixels = pixels_of(whole)
    quality = psnr(reconstructed(pipeline.vae, pixels), pixels)
    figures["autoencoder_psnr_db"] = {"mean": float(quality.mean()), "count": len(quality)}
    chosen = [list(NOUNS)[i] for i in zero_shot(clip, examiner.fresh).tolist()]
    figures["clip_zero_shot"] = shares(chosen, examiner.fresh_nouns)
    figures["settings"] = {
        "per_noun": per_noun,
        "steps": steps,
        "guidance": GUIDANCE,
        "fitted": fitted,
        "held_out": held_out,
        "seed": seed,
    }
    return figures, sheets


def sheet(images: Sequence[Image.Image], *, columns: int = 8, side: int = 96) -> Image.Image:
    """Show the first pictures of every noun, one row a noun."""
    per_noun, label, gap = len(images) // len(NOUNS), 96, 4
    columns = min(columns, per_noun)
    size = (label + columns * (side + gap), len(NOUNS) * (side + gap))
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for row, noun in enumerate(NOUNS):
        top = row * (side + gap)
        draw.text((4, top + side // 2 - 8), noun, fill=(30, 30, 30), font=font)
        for column in range(columns):
            small = images[row * per_noun + column].resize((side, side), Image.Resampling.LANCZOS)
            page.paste(small, (label + column * (side + gap), top))
    return page


def main() -> None:
    """Parse the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="sprite corpus folder")
    parser.add_argument("--model", type=Path, default=None, help="default: the built-in model")
    parser.add_argument("--out", type=Path, default=Path("docs/results/model.json"))
    parser.add_argument("--sheet", type=Path, default=Path("docs/model_samples.png"))
    parser.add_argument("--per-noun", type=int, default=12, help="pictures of a kind of prompt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clip = load_clip((options.model or weights_path()) / "clip")
    figures, sheets = model_figures(
        load_pipeline(options.model),
        clip,
        load_judge(),
        Corpus(options.corpus),
        per_noun=options.per_noun,
    )
    write_json(options.out, {**figures, "machine": machine()})
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.sheet.with_name(f".{options.sheet.name}.part")
    sheet(sheets["plain_prompts"]).save(unfinished, format="PNG")
    unfinished.replace(options.sheet)


if __name__ == "__main__":
    main()
