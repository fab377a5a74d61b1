"""Compose pictures of a subject whose true mask is known, with prompts that say what they show.

Cut-outs of the subject come from the split ``subject`` of a sprite corpus (:mod:`cones.mini.data`)
and are none of those that its photos show. They stand on the corpus' backgrounds as the things of
training pictures do, and what a cut-out covers is the mask.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.errors import SubjectError
from cones.mini.arrange import stand
from cones.mini.sprites import SIZE, Background, Sprite, opened, rows_of
from cones.mini.world import PLACES, Thing
from cones.subject import PROMPT_TEMPLATES, pixels_of


@dataclass(frozen=True, eq=False)
class Scenes:
    """Pictures of a subject.

    Attributes:
        pixels: RGB in [0, 1].
        inside: Share of each pixel that the subject covers, in [0, 1].
        prompts: What each shows, with ``{}`` in the place of the subject.
        places: The word of each prompt that names the place.
    """

    pixels: Float[Tensor, "n 3 side side"]
    inside: Float[Tensor, "n side side"]
    prompts: tuple[str, ...]
    places: tuple[str, ...]


def captions(count: int) -> list[tuple[str, str]]:
    """List places and prompts with ``{}`` in them: every place in turn, no prompt twice.

    Raises:
        SubjectError: There are fewer prompts than that.
    """
    labels, templates = list(PLACES), PROMPT_TEMPLATES
    if not 1 <= count <= len(labels) * len(templates):
        raise SubjectError(
            f"found {count} pictures; expected 1 to {len(labels) * len(templates)}, as many as "
            "there are prompts; ask for fewer"
        )
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        template = templates[(number + number // len(labels)) % len(templates)]
        found.append((label, template.replace("{}", f"{{}} {PLACES[label]}")))
    return found


def compose(
    corpus: Path | str, subject: str, *, count: int, side: int = SIZE, seed: int = 0
) -> Scenes:
    """Compose pictures of a subject; a picture depends on its number and the seed alone.

    Args:
        corpus: The corpus folder, with ``subjects/<subject>/subject.json``.
        subject: Name of the subject.
        count: Pictures, see :func:`captions`.
        side: Of the pictures; other sides than 64 are those resized.
        seed: Of views, backgrounds and positions.

    Raises:
        SubjectError: The folder holds no corpus, or has no other view of the subject.
    """
    corpus, said = Path(corpus), captions(count)
    views, grounds = _views(corpus, subject), _grounds(corpus)
    images, masks = [], []
    for number, (label, _) in enumerate(said):
        rng = np.random.default_rng((seed, number))
        ground = grounds[label][rng.integers(len(grounds[label]))]
        canvas = ground.image.copy()
        view = views[rng.integers(len(views))]
        (covered,) = stand(canvas, [view], ground, rng)
        images.append(canvas.resize((side, side), Image.Resampling.BICUBIC))
        masks.append(np.asarray(covered.resize((side, side), Image.Resampling.BICUBIC)))
    inside = torch.from_numpy(np.stack(masks)).float() / 255
    labels, prompts = zip(*said, strict=True)
    return Scenes(pixels_of(images), inside, prompts, labels)


def _views(corpus: Path, subject: str) -> list[Sprite]:
    """Read the cut-outs of a subject that none of its photos shows."""
    file = corpus / "subjects" / subject / "subject.json"
    if not file.is_file():
        raise SubjectError(
            f"found no {file}; expected a sprite corpus that holds the subject; pass its folder "
            "with --corpus, and with --subject those it has"
        )
    told: dict[str, Any] = json.loads(file.read_text("utf-8"))
    shown = {photo["sprite"] for photo in told["photos"]}
    names = set(told["sprites"]) - shown
    rows = [
        row
        for row in rows_of(corpus, "sprites.jsonl")
        if row["split"] == "subject" and row["file"] in names
    ]
    if not rows:
        raise SubjectError(
            f"found no view of {subject} that its photos do not show; expected one at least; "
            "choose other subjects with --subject"
        )
    return [
        Sprite(image.convert("RGBA"), Thing(row["class"], row["name"], None), row["model"], False)
        for row, image in opened(corpus, rows)
    ]


def _grounds(corpus: Path) -> dict[str, Sequence[Background]]:
    rows = [row for row in rows_of(corpus, "backgrounds.jsonl") if row["label"] in PLACES]
    found: dict[str, list[Background]] = {}
    for row, image in opened(corpus, rows):
        small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        ground = Background(small, row["label"], row["ground_from"], row["ground_to"])
        found.setdefault(row["label"], []).append(ground)
    return found
