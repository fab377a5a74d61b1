"""Text and image alignment: cosines in the space of an encoder such as CLIP (Sec. 4.1).

The encoder is a field. :func:`cones.encoders.load_clip` gives a CLIP; the independent
:class:`cones.metrics.judge.Judge` serves for pictures. Nothing here knows where it comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cones.errors import SubjectError


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns pictures into vectors."""

    def images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed RGB in [0, 1]."""
        ...


@runtime_checkable
class Encoder(ImageEncoder, Protocol):
    """Turns pictures and texts into vectors of one space."""

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed texts."""
        ...


@dataclass(frozen=True)
class ImageAlignment:
    """Compare pictures with a subject's photos: mean cosine of their vectors.

    Attributes:
        encoder: Embeds both.
    """

    encoder: ImageEncoder

    def __call__(
        self,
        generated: Float[Tensor, "n 3 h w"],
        references: Sequence[Float[Tensor, "_ 3 _ _"]],
    ) -> Float[Tensor, " n"]:
        """Score pictures against every subject.

        Args:
            generated: RGB in [0, 1].
            references: One batch per subject, RGB in [0, 1]; sizes may differ between subjects.

        Returns:
            Mean over each subject's references, then over subjects, in [-1, 1].

        Raises:
            SubjectError: There is nothing to compare with.
        """
        if not references or any(not len(photos) for photos in references):
            raise SubjectError(
                f"found {[len(photos) for photos in references]} reference pictures; expected "
                "at least one for every subject; pass the subject's photos"
            )
        ours = self.encoder.images(generated)
        per_subject = [
            cosine_similarity(ours[:, None], self.encoder.images(photos)[None], dim=-1).mean(1)
            for photos in references
        ]
        return sum(per_subject) / len(per_subject)


@dataclass(frozen=True)
class TextAlignment:
    """Compare each picture with its own prompt: the cosine of their vectors.

    Attributes:
        encoder: Embeds both. It does not know new words: leave identifiers out of the prompts.
    """

    encoder: Encoder

    def __call__(
        self, generated: Float[Tensor, "n 3 h w"], references: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """Score picture ``i`` against prompt ``i``, in [-1, 1].

        Raises:
            SubjectError: The number of prompts is another than that of the pictures.
        """
        if len(references) != len(generated):
            raise SubjectError(
                f"found {len(references)} prompts for {len(generated)} pictures; expected one "
                "prompt per picture; pass as many"
            )
        texts = self.encoder.texts(references)
        return cosine_similarity(self.encoder.images(generated), texts, dim=-1)


@dataclass(frozen=True)
class ClipScore(TextAlignment):
    """CLIPScore, the text alignment of CustomConcept101: not to be mixed with plain cosines.

    Source: Hessel et al., "CLIPScore" (2021), Eq. 1, without a prefix to the text.
    """

    def __call__(
        self, generated: Float[Tensor, "n 3 h w"], references: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """Score picture ``i`` against prompt ``i``, in [0, 2.5]."""
        return 2.5 * super().__call__(generated, references).clamp(min=0)  # Eq. 1
