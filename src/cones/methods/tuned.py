"""What training leaves behind: weights of the U-Net, and vectors of words, put in for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cones.backbones import backbone_for
from cones.backbones.identifier import Embeddings
from cones.backbones.spoken import spoken
from cones.errors import BackboneError


@dataclass(frozen=True, eq=False)
class Tuned:
    """Weights and words that a method has learnt.

    Attributes:
        identifiers: The words of the subjects.
        weights: New values of whole parameters of the U-Net, by name.
        words: Learnt vectors, identifier -> encoder -> ``(1, dim)``; the others keep the vector
            they were registered with.
    """

    identifiers: tuple[str, ...]
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    words: Mapping[str, Embeddings] = field(default_factory=dict)

    @contextmanager
    def applied(self, pipeline: Any) -> Iterator[None]:
        """Put weights and words in; afterwards every bit is as before.

        Raises:
            BackboneError: The model lacks a parameter or has it in another shape. Nothing has
                been changed.
        """
        backbone = backbone_for(pipeline)
        parameters = dict(backbone.module.named_parameters())
        for name, value in self.weights.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise BackboneError(
                    f"found weights for {name!r} of shape {tuple(value.shape)}, which the model "
                    "lacks; expected the model they were trained on; load it"
                )
        for identifier in self.identifiers:
            backbone.register(identifier)
        before = {name: parameters[name].detach().clone() for name in self.weights}
        try:
            _write(parameters, self.weights)
            with spoken(pipeline, self.words):
                yield
        finally:
            _write(parameters, before)


@torch.no_grad()
def _write(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
