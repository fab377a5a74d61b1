"""The only modules that know a diffusion pipeline from the inside.

A backbone says which weights are searched, turns pictures and prompts into what its network
eats, and gives the loss as a function of the searched weights. A new family of models is one
new file here and one line in ``BACKBONES``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cones.backbones.loading import load_pipeline
from cones.backbones.unet import UNetBackbone
from cones.errors import BackboneError

__all__ = ["BACKBONES", "Backbone", "UNetBackbone", "backbone_for", "load_pipeline"]


@runtime_checkable
class Backbone(Protocol):
    """What the rest of the library may ask of a pipeline."""

    @property
    def module(self) -> nn.Module:
        """Give the network whose weights are searched."""
        ...

    @property
    def model_id(self) -> str:
        """Name the model, without the folder it lies in."""
        ...

    @property
    def train_steps(self) -> int:
        """Count the integer timesteps of training."""
        ...

    @property
    def resolution(self) -> int:
        """Give the side of the pictures, in pixels."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Give the shape of one picture's latents."""
        ...

    def sites(self, scope: str = "both") -> tuple[str, ...]:
        """Name the key and value projections."""
        ...

    def weights(self, scope: str = "both") -> dict[str, Tensor]:
        """Give the live weights of the sites, detached."""
        ...

    def latents(
        self, pixels: Float[Tensor, "n 3 h w"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c y x"]:
        """Encode pictures."""
        ...

    def condition(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts, batch first."""
        ...

    def embedded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts with gradients to the text encoders."""
        ...

    def timesteps(self, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Draw timesteps spread evenly over training."""
        ...

    def loss(
        self,
        weights: Mapping[str, Tensor],
        *,
        latents: Float[Tensor, "n c y x"],
        noise: Float[Tensor, "n c y x"],
        timesteps: Int[Tensor, " n"],
        condition: Mapping[str, Tensor],
        weighting: str = "uniform",
        mask: Float[Tensor, "n 1 y x"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Measure the denoising error of every sample (Eq. 1)."""
        ...

    def register(
        self,
        identifier: str,
        *,
        rare: str | None = None,
        embeddings: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Make the identifier one token."""
        ...

    def release(self) -> None:
        """Move what a search no longer needs off the accelerator."""
        ...

    def recall(self) -> None:
        """Bring back what :meth:`release` moved."""
        ...


BACKBONES: dict[str, type[UNetBackbone]] = {"unet": UNetBackbone}


def backbone_for(pipeline: Any) -> Backbone:
    """Choose the backbone that knows ``pipeline``.

    Raises:
        BackboneError: No backbone does.
    """
    for kind in BACKBONES.values():
        if kind.knows(pipeline):
            return kind(pipeline)
    raise BackboneError(
        f"found a {type(pipeline).__name__}; expected a text-to-image pipeline of one of these "
        f"families: {', '.join(BACKBONES)}; load Stable Diffusion 1.x, 2.x or XL"
    )
