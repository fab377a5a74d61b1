"""Scores of one method on one group of subjects, and the table over all of them (Sec. 4.1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from cones.bench.interval import interval
from cones.bench.plan import UNTOUCHED
from cones.metrics import (
    ClipScore,
    Encoder,
    ImageAlignment,
    ImageEncoder,
    Presence,
    TextAlignment,
)
from cones.metrics.distance import diversity


@dataclass(frozen=True)
class Encoders:
    """Who judges pictures: an independent judge, and a CLIP for texts too."""

    judge: ImageEncoder
    clip: Encoder


class Once:
    """An encoder that embeds each tensor of pictures once, however many scores ask for it."""

    def __init__(self, encoder: Any) -> None:
        """Keep the encoder; texts are passed on to it."""
        self.encoder, self.texts = encoder, getattr(encoder, "texts", None)
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed RGB in [0, 1]."""
        if id(pixels) not in self._known:  # kept beside its vectors, so that no other takes its id
            self._known[id(pixels)] = (pixels, self.encoder.images(pixels))
        return self._known[id(pixels)][1]


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
        vector of a prompt's pictures (Sec. 4.1 of the paper, as written); ``clip_score``, that of
        CustomConcept101, on a scale of its own; ``image_alignment`` by
        the judge and ``clip_image_alignment``, means over the subjects; ``diversity``, mean
        cosine distance between pictures of one prompt, by the judge.
    """
    judge, clip = Once(encoders.judge), Once(encoders.clip)
    texts = normalize(clip.texts(list(prompts)), dim=-1)
    means = torch.stack([clip.images(part).mean(0) for part in pictures])
    found = {"text_alignment_of_mean": float((normalize(means, dim=-1) * texts).sum(-1).mean())}
    for name, metric in (("text_alignment", TextAlignment), ("clip_score", ClipScore)):
        text = [
            metric(clip)(part, [prompt] * len(part))
            for part, prompt in zip(pictures, prompts, strict=True)
        ]
        found[name] = float(torch.cat(text).mean())
    for name, encoder in (("image_alignment", judge), ("clip_image_alignment", clip)):
        each = [ImageAlignment(encoder)(part, photos) for part in pictures]
        found[name] = float(torch.cat(each).mean())
    if all(len(part) > 1 for part in pictures):
        apart = [diversity(judge.images(part)) for part in pictures]
        found["diversity"] = sum(apart) / len(apart)
    return found


def by_kind(
    pictures: Sequence[Float[Tensor, "n 3 h w"]],
    prompts: Sequence[str],
    kinds: Sequence[str | None],
    photos: Sequence[Float[Tensor, "_ 3 _ _"]],
    encoders: Encoders,
) -> dict[str, float]:
    """Give ``text_<kind>`` (CLIP) and ``image_<kind>`` (judge) of the prompts of each kind."""
    found = {}
    for kind in dict.fromkeys(kind for kind in kinds if kind):
        own = [row for row, each in enumerate(kinds) if each == kind]
        part = scores([pictures[i] for i in own], [prompts[i] for i in own], photos, encoders)
        found |= {
            f"text_{kind}": part["text_alignment"],
            f"image_{kind}": part["image_alignment"],
        }
    return found


def shown(
    pictures: Sequence[Float[Tensor, "n 3 s s"]], names: Sequence[str], presence: Presence
) -> dict[str, float]:
    """Count which of the subjects are there (``present``), and pictures with all of them."""
    shares = torch.cat([presence(part, names) for part in pictures])
    return {"present": float(shares.mean()), "all_present": float((shares == 1).float().mean())}


def template_scores(
    told: Float[Tensor, "n 3 h w"],
    untold: Float[Tensor, "n 3 h w"],
    before: Float[Tensor, "n 3 h w"],
    photos: Float[Tensor, "_ 3 _ _"],
    judge: ImageEncoder,
) -> dict[str, float]:
    """Measure overfitting to the prompt of training (App. C.4), by the judge.

    Args:
        told: Pictures of "a photo of a V* cat".
        untold: Pictures of "a photo of a cat", by the customized model.
        before: The same by the untouched model, from the same noise.
        photos: Of the subject.
        judge: Who judges.

    Returns:
        ``template_diversity`` of the first; ``leak``, how much more like the photos the second
        are than the third: a method that keeps to its word has none.
    """
    like = [float(ImageAlignment(judge)(each, [photos]).mean()) for each in (untold, before)]
    return {"template_diversity": diversity(judge.images(told)), "leak": like[0] - like[1]}


def drift(
    before: Float[Tensor, "n 3 h w"], after: Float[Tensor, "n 3 h w"], judge: ImageEncoder
) -> float:
    """Measure how far pictures of unrelated prompts have moved, in [0, 1].

    Half of one minus the mean cosine between the pictures of the untouched and of the customized
    model, from the same noise (the measure of peft's comparison of methods).
    """
    a, b = (normalize(judge.images(p), dim=-1) for p in (before, after))
    return float((1 - (a * b).sum(-1).mean()) / 2)


def table(rows: Sequence[Mapping[str, Any]], left_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Average rows by method and number of subjects, with intervals over groups and seeds.

    Args:
        rows: One a cell.
        left_out: Scores that the table does not show.

    Returns:
        For every method and number of subjects ``scores`` and, where the untouched model is among
        the rows, ``change``, the paired difference from it on the same group, seed and noise.
    """
    base = {_place(row): row["scores"] for row in rows if row["method"] == UNTOUCHED}
    found = []
    for method, size in dict.fromkeys((row["method"], len(row["group"])) for row in rows):
        own = [row for row in rows if (row["method"], len(row["group"])) == (method, size)]
        # A score that not every group has (no other looks of its noun) is that of the others.
        having = {
            name: [row for row in own if name in row["scores"]]
            for name in dict.fromkeys(name for row in own for name in row["scores"])
            if name not in left_out
        }
        entry: dict[str, Any] = {"method": method, "subjects": size}
        entry["scores"] = {
            name: _over(some, lambda r, n=name: r["scores"][n]) for name, some in having.items()
        }
        if method != UNTOUCHED and all(_place(row) in base for row in own):
            entry["change"] = {
                name: _over(some, lambda r, n=name: r["scores"][n] - base[_place(r)][n])
                for name, some in having.items()
                if all(name in base[_place(row)] for row in some)
            }
        for name in ("seconds", "bytes", "density"):
            if all(name in row for row in own):
                entry[name] = sum(row[name] for row in own) / len(own)
        found.append(entry)
    return sorted(found, key=lambda entry: entry["subjects"])


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    return "+".join(row["group"]), row["seed"]


def _over(
    rows: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault("+".join(row["group"]), []).append(value(row))
    return interval(groups)
