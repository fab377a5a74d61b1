"""Measure the built-in model: ``python -m cones.mini.quality --corpus DIR --out FILE``.

Does a picture show what its prompt names? The generator's own parts have no say in that: the
examiner is a judge it never saw. What the examiner says of composed pictures stands beside every
figure, as the most that could be reached; so does what it says of those pictures sent through the
autoencoder, the most that a perfect U-Net could reach.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from cones.backbones import load_pipeline
from cones.encoders import load_clip
from cones.metrics import load_judge
from cones.metrics.distance import diversity, kernel_distance, standardised
from cones.mini import weights_path
from cones.mini.arrange import stand
from cones.mini.card import with_measured
from cones.mini.data import HELD_OUT, Corpus, pictures
from cones.mini.examiner import FIT_SEED, Examiner, Shown
from cones.mini.probe import shares
from cones.mini.questions import Asked, prompts
from cones.mini.world import NOUNS, PLACES, held_out, with_article
from cones.plot import Row, picture_sheet, save_picture
from cones.record import machine, write_json, write_text
from cones.subject import pixels_of

GUIDANCE = 7.5
BATCH = 16


def drawn(
    pipeline: Any, asks: Sequence[Asked], *, steps: int, label: str = "draw"
) -> list[Image.Image]:
    """Draw one picture of every prompt; a picture depends on its own seed alone."""
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in track(range(0, len(asks), BATCH), description=f"{label:<18}"):
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


def zero_shot(clip: Any, pixels: Float[Tensor, "n 3 h w"], nouns: Sequence[str]) -> dict[str, Any]:
    """Count pictures to which ``a photo of a <noun>`` is nearest with the right noun."""
    texts = clip.texts([f"a photo of {with_article(noun)}" for noun in NOUNS])
    images = torch.cat([clip.images(part) for part in pixels.split(64)])
    chosen = (F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T).argmax(1)
    return shares([list(NOUNS)[i] for i in chosen.tolist()], nouns)


def new_looks(folder: Path, per_noun: int = 16) -> tuple[Float[Tensor, "n 3 h w"], list[str]]:
    """Compose pictures of things that no part of the model has seen, the subjects' own.

    Returns:
        Pictures in [0, 1], and the noun of each.
    """
    corpus = Corpus(folder, split="subject")
    images, nouns = [], [noun for noun in NOUNS if noun in corpus.sprites for _ in range(per_noun)]
    for number, noun in enumerate(nouns):
        rng = np.random.default_rng((FIT_SEED, number))
        background = corpus.background(rng)
        canvas = background.image.copy()
        stand(canvas, [corpus.sprite(noun, False, rng)], background, rng)
        images.append(np.asarray(canvas))
    return pixels_of(images), nouns


def by_noun(features: Float[Tensor, "n d"], shown: Sequence[Shown]) -> float:
    """Average, over nouns, how different pictures of one noun are from each other."""
    kinds = sorted({entry.nouns for entry in shown})
    rows = [[i for i, entry in enumerate(shown) if entry.nouns == kind] for kind in kinds]
    return sum(diversity(features[i]) for i in rows) / len(rows)


def autoencoder_figures(
    pipeline: Any, examiner: Examiner, corpus: Corpus, count: int
) -> dict[str, Any]:
    """Measure what is lost between a picture and its reconstruction."""
    whole, _ = pictures(corpus, range(HELD_OUT, HELD_OUT + count), FIT_SEED)
    pixels = pixels_of(whole)
    back = reconstructed(pipeline.vae, pixels)
    quality = psnr(back, pixels)
    pair = [F.normalize(examiner.judge.images(p), dim=1) for p in (pixels, back)]
    return {
        "psnr_db": {"mean": float(quality.mean()), "count": count},
        "judge_distance": float(1 - (pair[0] * pair[1]).sum(1).mean()),
    }


def model_figures(
    pipeline: Any,
    clip: Any,
    examiner: Examiner,
    corpus: Corpus,
    *,
    per_noun: int = 16,
    steps: int = 25,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, list[Image.Image]]]:
    """Measure the model.

    Args:
        pipeline: The model.
        clip: Its CLIP.
        examiner: Names what pictures show; the generator never saw it.
        corpus: Composes pictures.
        per_noun: Pictures drawn of every noun; 16 show each noun at each place once.
        steps: Sampling steps.
        seed: Of the first picture.

    Returns:
        The figures, and the pictures of each kind of prompt.
    """
    judge = examiner.judge
    real = {things: judge.images(known.pixels) for things, known in examiner.fresh.items()}
    shown = {things: known.shown for things, known in examiner.fresh.items()}
    back = judge.images(reconstructed(pipeline.vae, examiner.fresh[1].pixels))
    figures: dict[str, Any] = {
        "composed": {str(n): examiner.examine(real[n], shown[n]) for n in real},
        "reconstructed": examiner.examine(back, shown[1]),
        "autoencoder": autoencoder_figures(pipeline, examiner, corpus, len(shown[1])),
    }
    places = [place for place in PLACES if (place,) in {(e.place,) for e in shown[1]}]
    sheets, features = {}, {}
    wanted = prompts(corpus, places, per_noun, seed)
    for kind, asks in wanted.items():
        started = time.perf_counter()
        sheets[kind] = drawn(pipeline, asks, steps=steps, label=kind)
        seconds = time.perf_counter() - started
        features[kind] = judge.images(pixels_of(sheets[kind]))
        figures[kind] = examiner.examine(features[kind], [ask.shown for ask in asks])
        figures[kind] |= {"example": asks[0].prompt, "seconds_per_picture": seconds / len(asks)}
    asks = wanted["plain"]
    for name, apart in (("seen_pairs", False), ("never_together", True)):
        rows = [
            i for i, ask in enumerate(asks) if held_out(*ask.shown.nouns, ask.shown.place) == apart
        ]
        figures["plain"][name] = examiner.examine(
            features["plain"][rows], [asks[i].shown for i in rows]
        )
    half = len(real[1]) // 2
    ready = {
        k: standardised(f, real[1]) for k, f in (("real", real[1]), ("plain", features["plain"]))
    }
    figures["kid"] = {
        "plain_against_composed": kernel_distance(ready["plain"], ready["real"]),
        "composed_against_composed": kernel_distance(ready["real"][:half], ready["real"][half:]),
        "encoder": "EfficientNet-Lite0, features standardised over composed pictures",
    }
    figures["diversity"] = {
        "plain": by_noun(features["plain"], [ask.shown for ask in asks]),
        "composed": by_noun(real[1], shown[1]),
    }
    nouns = [entry.nouns[0] for entry in shown[1]]
    figures["clip_zero_shot"] = zero_shot(clip, examiner.fresh[1].pixels, nouns)
    figures["settings"] = {
        "per_noun": per_noun,
        "steps": steps,
        "guidance": GUIDANCE,
        "seed": seed,
    }
    return figures, sheets


def sheet(images: Sequence[Image.Image], *, columns: int = 8) -> Image.Image:
    """Show the first pictures of every noun, one row a noun."""
    per_noun = len(images) // len(NOUNS)
    rows = [
        Row(noun, images[start : start + min(columns, per_noun)])
        for noun, start in zip(NOUNS, range(0, len(images), per_noun), strict=True)
    ]
    return picture_sheet(rows, side=96)


def main() -> None:
    """Parse the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="sprite corpus folder")
    parser.add_argument("--model", type=Path, default=None, help="default: the built-in model")
    parser.add_argument("--out", type=Path, default=Path("docs/results/model.json"))
    parser.add_argument("--sheet", type=Path, default=Path("docs/model_samples.png"))
    parser.add_argument("--per-noun", type=int, default=16, help="pictures drawn of every noun")
    parser.add_argument("--fitted", type=int, default=1200, help="composed, for the examiner")
    parser.add_argument("--held-out", type=int, default=400, help="composed, to compare with")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    corpus, clip = Corpus(options.corpus), load_clip((options.model or weights_path()) / "clip")
    figures, sheets = model_figures(
        load_pipeline(options.model),
        clip,
        Examiner(load_judge(), corpus, fitted=options.fitted, held_out=options.held_out),
        corpus,
        per_noun=options.per_noun,
    )
    figures["clip_new_looks"] = zero_shot(clip, *new_looks(options.corpus))
    figures["settings"] |= {"fitted": options.fitted, "held_out": options.held_out}
    figures["machine"] = machine()
    write_json(options.out, figures)
    readme = (options.model or weights_path()) / "README.md"
    if readme.exists():
        write_text(readme, with_measured(readme.read_text("utf-8"), figures))
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    save_picture(sheet(sheets["plain"]), options.sheet, figures["settings"])


if __name__ == "__main__":
    main()
