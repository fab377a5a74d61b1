"""Scores of one method on one group of subjects, and the table over all of them (Sec. 4.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from cones.bench.interval import interval
from cones.metrics import Encoder, ImageAlignment, ImageEncoder, TextAlignment
from cones.metrics.distance import diversity


@dataclass(frozen=True)
class Encoders:
    """Who judges pictures: an independent judge, and a CLIP for texts too."""

    judge: ImageEncoder
    clip: Encoder


def scores(
    pictures: Sequence[Float[Tensor, "n 3 h w"]],
    prompts: Sequence[str],
    photos: Sequence[Float[Tensor, "_ 3 _ _"]],
    encoders: Encoders,
) -> dict[str, float]:
    """Score pictures of one cell.

    Args:
        pictures: Of every prompt.
        prompts: Without identifiers.
        photos: Of every subject.
        encoders: Who judges.

    Returns:
        ``text_alignment`` by CLIP, mean over pictures; ``text_alignment_of_mean``, of the mean
        vector of a prompt's pictures (Sec. 4.1 of the paper, as written); ``image_alignment`` by
        the judge and ``clip_image_alignment``, means over the subjects; ``diversity``, mean
        cosine distance between pictures of one prompt, by the judge.
    """
    every = torch.cat(list(pictures))
    each = [prompt for prompt, part in zip(prompts, pictures, strict=True) for _ in part]
    texts = normalize(encoders.clip.texts(list(prompts)), dim=-1)
    means = torch.stack([encoders.clip.images(part).mean(0) for part in pictures])
    of_mean = (normalize(means, dim=-1) * texts).sum(-1)
    found = {
        "text_alignment": float(TextAlignment(encoders.clip)(every, each).mean()),
        "text_alignment_of_mean": float(of_mean.mean()),
        "image_alignment": float(ImageAlignment(encoders.judge)(every, photos).mean()),
        "clip_image_alignment": float(ImageAlignment(encoders.clip)(every, photos).mean()),
    }
    if all(len(part) > 1 for part in pictures):
        apart = [diversity(encoders.judge.images(part)) for part in pictures]
        found["diversity"] = sum(apart) / len(apart)
    return found


def drift(
    before: Float[Tensor, "n 3 h w"], after: Float[Tensor, "n 3 h w"], judge: ImageEncoder
) -> float:
    """Measure how far pictures of unrelated prompts have moved, in [0, 1].

    Half of one minus the mean cosine between the pictures of the untouched and of the customized
    model, from the same noise (the measure of peft's comparison of methods).
    """
    a, b = (normalize(judge.images(p), dim=-1) for p in (before, after))
    return float((1 - (a * b).sum(-1).mean()) / 2)


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average rows by method and number of subjects, with intervals over groups and seeds."""
    found = []
    for method, size in dict.fromkeys((row["method"], len(row["group"])) for row in rows):
        own = [row for row in rows if (row["method"], len(row["group"])) == (method, size)]
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in own:
            groups.setdefault("+".join(row["group"]), []).append(row)
        names = [name for name in own[0]["scores"] if all(name in r["scores"] for r in own)]
        entry: dict[str, Any] = {
            "method": method,
            "subjects": size,
            "scores": {
                name: interval({g: [r["scores"][name] for r in of] for g, of in groups.items()})
                for name in names
            },
        }
        for name in ("seconds", "bytes"):
            if all(name in row for row in own):
                entry[name] = sum(row[name] for row in own) / len(own)
        found.append(entry)
    return sorted(found, key=lambda entry: entry["subjects"])
