"""Scores of generated pictures, each an object that is given its encoder (Sec. 4.1).

A metric takes pictures and what they are compared with, and gives one number per picture; means
and intervals are the benchmark's business. Encoders arrive as fields, so a test hands in a fake
with known answers. A new metric is one new file here and one line in ``METRICS``.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from cones.metrics.clip import ClipScore, Encoder, ImageAlignment, ImageEncoder, TextAlignment
from cones.metrics.judge import Judge, load_judge
from cones.metrics.presence import Presence

__all__ = [
    "METRICS",
    "ClipScore",
    "Encoder",
    "ImageAlignment",
    "ImageEncoder",
    "Judge",
    "Metric",
    "Presence",
    "TextAlignment",
    "load_judge",
]


@runtime_checkable
class Metric(Protocol):
    """What a benchmark may ask of a metric."""

    def __call__(
        self, generated: Float[Tensor, "n 3 h w"], references: Sequence[Any]
    ) -> Float[Tensor, " n"]:
        """Score every picture against the references."""
        ...


METRICS: dict[str, type[Metric]] = {
    "clip-score": ClipScore,
    "image-alignment": ImageAlignment,
    "text-alignment": TextAlignment,
}
