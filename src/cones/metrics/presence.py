"""Which subjects a picture shows, by an image encoder and the photos of all that it could show.

A picture with several things is looked at whole and in overlapping parts; a subject counts as
strong as the part most like its photos. No threshold is set: of a picture that should show ``k``
subjects, the ``k`` strongest of all candidates count as shown. Chance is ``k`` of the candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cones.errors import SubjectError
from cones.metrics.clip import ImageEncoder

PARTS = ((0.75, 2), (0.5, 3))  # side of a part as a share of the picture's, parts in a row


@dataclass(frozen=True, eq=False)
class Presence:
    """Tell which of the candidates pictures show.

    Attributes:
        encoder: Embeds pictures.
        candidates: Name -> photos, RGB in [0, 1]; sizes may differ between candidates.
        parts: Look at parts of the pictures too; without, a picture is compared as a whole.
    """

    encoder: ImageEncoder
    candidates: Mapping[str, Float[Tensor, "_ 3 _ _"]]
    parts: bool = True

    @cached_property
    def _known(self) -> Float[Tensor, "candidates d"]:
        means = [
            F.normalize(self.encoder.images(photos), dim=-1).mean(0)
            for photos in self.candidates.values()
        ]
        return F.normalize(torch.stack(means), dim=-1)

    def strengths(self, generated: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n candidates"]:
        """Give the best cosine of every candidate over the picture and its parts, in [-1, 1]."""
        found = []
        for picture in generated.split(1):
            views = views_of(picture[0]) if self.parts else picture
            vectors = F.normalize(self.encoder.images(views), dim=-1)
            found.append((vectors @ self._known.T).amax(0))
        return torch.stack(found)

    def __call__(
        self, generated: Float[Tensor, "n 3 s s"], references: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """Give the share of the named subjects that every picture shows, in [0, 1].

        Args:
            generated: RGB in [0, 1].
            references: Names of the ``k`` candidates that all of these pictures should show.

        Raises:
            SubjectError: One is no candidate, or there is none.
        """
        names = list(self.candidates)
        if not references or set(references) - set(names):
            raise SubjectError(
                f"found subjects {', '.join(references) or 'none'}; expected some of "
                f"{', '.join(names)}; choose among these"
            )
        wanted = torch.tensor([names.index(name) for name in references])
        shown = self.strengths(generated).topk(len(wanted), dim=1).indices
        return torch.isin(shown, wanted).float().mean(1)


def views_of(picture: Float[Tensor, "3 s s"]) -> Float[Tensor, "views 3 s s"]:
    """Give the picture and its overlapping parts, each enlarged to its size."""
    side = picture.shape[-1]
    views = [picture]
    for share, count in PARTS:
        length = round(side * share)
        starts = [round((side - length) * k / (count - 1)) for k in range(count)]
        views += [
            _enlarged(picture[:, top : top + length, left : left + length], side)
            for top in starts
            for left in starts
        ]
    return torch.stack(views)


def _enlarged(part: Float[Tensor, "3 a a"], side: int) -> Float[Tensor, "3 s s"]:
    found = F.interpolate(
        part[None], size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return found[0].clamp(0, 1)
