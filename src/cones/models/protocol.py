"""What the rest of the library may ask of a diffusion model.

The search, the drawing and the analysis know this protocol only; each family of models is one
class in a file beside this one. Nothing here loads diffusers.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Pipeline: TypeAlias = Any  # a diffusers pipeline: its parts differ by class, model_for checks them
Part: TypeAlias = Any  # a network, tokenizer or scheduler in it, for the same reason
Condition: TypeAlias = Mapping[str, Tensor]
Arguments: TypeAlias = Mapping[str, Part]  # of a network's forward
Latents: TypeAlias = Float[Tensor, "n c y x"]
Times: TypeAlias = Int[Tensor, " n"]
Progress: TypeAlias = Callable[..., object]  # progress(stage, done, total, note="")


@runtime_checkable
class Model(Protocol):
    """One pipeline, seen as the functions that a search needs.

    The four that know the noise of training are those of :class:`~.noise.NoiseSchedule`.
    """

    pipeline: Pipeline
    module: nn.Module  # the network whose weights are searched
    name: str  # of the model on the hub, or its folder's last part
    size: int  # side of the model's pictures, in pixels
    latent_shape: tuple[int, int, int]  # channels, height and width of one picture's latents
    timesteps: Callable[[int, torch.Generator], Times]
    noised: Callable[[Latents, Latents, Times], Latents]
    target: Callable[[Latents, Latents, Times], Latents]
    snr_weights: Callable[[Times, str], Float[Tensor, " n"]]

    def weights(self, scope: str = "both") -> dict[str, Tensor]:
        """Give the live key and value weights of ``cross``, ``self`` or ``both`` attentions."""
        ...

    def encode(self, pixels: Float[Tensor, "n 3 h w"]) -> Latents:
        """Encode pictures in [0, 1] as scaled latents (mean of the posterior)."""
        ...

    def condition(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts, batch first, without gradients."""
        ...

    def predict(
        self,
        weights: Mapping[str, Tensor],
        noised: Latents,
        timesteps: Times,
        condition: Condition,
    ) -> Latents:
        """Predict with ``weights`` in the place of the model's own; gradients flow to them."""
        ...

    def without_encoders(self) -> AbstractContextManager[None]:
        """Keep VAE and text encoders off the accelerator while the context is open."""
        ...
