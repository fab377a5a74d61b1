"""The model card of the built-in model, written from what was packed and how it was trained."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cones.mini.world import NOUNS, PLACES

STAGES = ("clip", "autoencoder", "denoiser", "decoder")
PARTS = {
    "unet/diffusion_pytorch_model.safetensors": "U-Net",
    "vae/diffusion_pytorch_model.safetensors": "KL autoencoder",
    "text_encoder/model.safetensors": "CLIP text encoder",
    "clip/model.safetensors": "CLIP, both towers (evaluation)",
}
HEAD = """---
license: cc-by-4.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The built-in model of cones

A Stable Diffusion made small: 64 px, for tests, demonstrations and measurements of methods that
personalise or explain text-to-image models, offline and on a CPU. It is not meant to please.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("src/cones/mini/weights")
```

## What it knows

Nouns: {nouns}.
Places: {places}.
Colour words where a thing was coloured on purpose; "a photo of", "an emoji of", "a drawing of",
"a cartoon of", "a sticker of"; "next to", "to the left of", "to the right of", "in front of",
"behind", "on", "and"; "in bright light", "in dim light", "at sunset".
Nothing else: no text, no people but "woman", no photographs; two objects are harder than one,
and small or thin things are blurred. How well it draws what it knows is measured by
`python -m cones.mini.quality`. Where the table below says fewer updates than planned, training is
unfinished and goes on with `python -m cones.mini.pretrain --start`.

## Parts

| file | what | weights | SHA-256 |
| --- | --- | --- | --- |
"""
TAIL = """
## Training

Pictures composed on the fly from sprites and backgrounds (`cones.mini.data`), captions from
templates (`cones.mini.world`); no subject of the evaluation, nor any view of its model, is among
them. One pair in ten of things, or of a thing and a place, is never shown together, for measuring
(`cones.mini.world.held_out`). Made by `python -m cones.mini.pretrain --corpus CORPUS` from seed 0
with Muon (`cones.mini.muon`); exact resume, but not the same bits on every processor.

| stage | updates | planned | batch | samples |
| --- | --- | --- | --- | --- |
{stages}{remarks}
## Licences

The weights: CC BY 4.0, with the attribution of NOTICE. The pictures they were trained on are
CC0, CC BY 3.0, CC BY 4.0, Apache-2.0 and MIT artwork; ATTRIBUTION.csv beside this file names
the creator and licence of every one. No share-alike or GPL art was used.
"""

MEASURED = "Measured"
EXAMINED = (
    ("single thing named", "plain.nouns.share", "composed.1.nouns.share"),
    ("the same, word order of no caption", "unseen_order.nouns.share", "composed.1.nouns.share"),
    ("place named", "plain.place.share", "composed.1.place.share"),
    ("colour named", "colours.colour.share", "composed.1.colour.share"),
    ("both of two things", "two.nouns.share", "composed.2.nouns.share"),
    ("all of three things", "three.nouns.share", "composed.3.nouns.share"),
)


def card(work: Path, folder: Path) -> str:
    """Write the card of a packed model.

    Args:
        work: The pretraining folder, for the training logs and, where whoever trained has
            something to say, ``remarks.md``.
        folder: The packed model, for its files.
    """
    words = {"nouns": ", ".join(NOUNS), "places": ", ".join(PLACES)}
    text = HEAD.format(**words)
    for name, what in PARTS.items():
        path = folder / name
        with safe_open(path, "pt") as file:
            count = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        text += f"| {name} | {what} | {count:,} | `{digest}` |\n"
    path = work / "remarks.md"
    remarks = f"\n{path.read_text().strip()}\n" if path.exists() else ""
    return text + TAIL.format(stages="".join(_rows(work)), remarks=remarks)


def with_measured(text: str, figures: Mapping[str, Any]) -> str:
    """Put what :mod:`cones.mini.quality` measured into a card, in the place of older figures."""
    head, _, rest = text.partition(f"## {MEASURED}\n")
    if rest:
        rest = rest[rest.index("## ") :]
    else:
        start = head.index("## Licences")
        head, rest = head[:start], head[start:]
    computer = figures["machine"]
    lines = [
        f"## {MEASURED}",
        "",
        f"By `python -m cones.mini.quality --corpus CORPUS` on {computer['processor']}, "
        f"{computer['threads']} threads; {figures['settings']['steps']} steps. "
        "An examiner that no",
        "part of the model has seen names what pictures show; composed pictures are of the kind",
        "the model learnt from, with other numbers.",
        "",
        "| | drawn | composed | share |",
        "| --- | --- | --- | --- |",
        *(_beside(figures, *row) for row in EXAMINED),
        "",
        f"At places a noun never had in training it is named in "
        f"{_at(figures, 'plain.never_together.nouns.share'):.1%} of pictures, at others in "
        f"{_at(figures, 'plain.seen_pairs.nouns.share'):.1%}. CLIP names "
        f"{_at(figures, 'clip_zero_shot.share'):.1%}",
        f"of composed pictures, and {_at(figures, 'clip_new_looks.share'):.1%} of things whose "
        "looks no part of the model has seen. After the autoencoder "
        f"{_at(figures, 'reconstructed.nouns.share'):.1%} of nouns and "
        f"{_at(figures, 'reconstructed.place.share'):.1%} of places are still",
        f"named ({_at(figures, 'autoencoder.psnr_db.mean'):.1f} dB). KID to composed pictures "
        f"{_at(figures, 'kid.plain_against_composed'):.3f}, diversity "
        f"{_at(figures, 'diversity.plain'):.3f} (composed "
        f"{_at(figures, 'diversity.composed'):.3f}),",
        f"{_at(figures, 'plain.seconds_per_picture'):.2f} s a picture in batches.",
        "",
    ]
    return head + "\n".join(lines) + "\n" + rest


def _at(figures: Any, path: str) -> float:
    for name in path.split("."):
        figures = figures[name]
    return float(figures)


def _beside(figures: Mapping[str, Any], what: str, drawn: str, composed: str) -> str:
    found, known = _at(figures, drawn), _at(figures, composed)
    return f"| {what} | {found:.1%} | {known:.1%} | {found / known:.0%} |"


def _rows(work: Path) -> Iterator[str]:
    for stage in STAGES:
        path = work / stage / "log.json"
        if path.exists():
            log = json.loads(path.read_text())
            batch, planned = log["recipe"]["batch"], log["recipe"]["steps"]
            seen = log["samples"]
            yield f"| {stage} | {log['step']:,} | {planned:,} | {batch} | {seen:,} |\n"
