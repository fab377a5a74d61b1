"""Stable Diffusion 1.x, 2.x and XL: a U-Net whose attention has separate K and V projections.

The network is never wrapped or copied. The loss calls it with the searched weights put in place
of its own, so that nothing has to be undone after a search; everything else is held constant.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from cones.backbones.identifier import encoders, register
from cones.backbones.noise import NoiseSchedule
from cones.backbones.sites import projections
from cones.errors import BackboneError

_ENCODE_BATCH = 4


class UNetBackbone:
    """The concept-implanting loss of one diffusers pipeline as a function of its K/V weights.

    Args:
        pipeline: A text-to-image pipeline with a U-Net. Its U-Net is set to evaluation mode.

    Raises:
        BackboneError: The pipeline is of another kind.
    """

    def __init__(self, pipeline: Any) -> None:
        """Check that the pipeline is of the kind known here."""
        if not self.knows(pipeline):
            raise BackboneError(
                f"found a {type(pipeline).__name__}; expected a text-to-image pipeline with a "
                "U-Net, a VAE and a text encoder; load Stable Diffusion 1.x, 2.x or XL"
            )
        self.pipeline = pipeline
        self.schedule = NoiseSchedule.of(pipeline.scheduler)
        if self._config.in_channels != pipeline.vae.config.latent_channels:
            raise BackboneError(
                f"found a U-Net with {self._config.in_channels} input channels; expected "
                f"{pipeline.vae.config.latent_channels}, those of the VAE; use a plain "
                "text-to-image model, not one for inpainting or upscaling"
            )
        self.module.eval()

    @staticmethod
    def knows(pipeline: Any) -> bool:
        """Tell whether ``pipeline`` has the parts needed here."""
        parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "encode_prompt")
        return all(getattr(pipeline, part, None) is not None for part in parts)

    @property
    def module(self) -> nn.Module:
        """Give the U-Net, without the wrapper of ``torch.compile``."""
        return getattr(self.pipeline.unet, "_orig_mod", self.pipeline.unet)

    @property
    def model_id(self) -> str:
        """Name the model, without the folder it lies in."""
        name = str(self.pipeline.config.get("_name_or_path") or "unnamed").replace("\\", "/")
        if "cones/mini" in name:
            return "cones-mini"
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        return name.rstrip("/").rsplit("/", 1)[-1] if looks_local else name

    @property
    def train_steps(self) -> int:
        """Count the integer timesteps of training."""
        return self.schedule.steps

    @property
    def resolution(self) -> int:
        """Give the side of the pictures, in pixels."""
        return self.latent_shape[-1] * self.pipeline.vae_scale_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Give the shape of one picture's latents."""
        size = self._config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self._config.in_channels, height, width)

    def sites(self, scope: str = "both") -> tuple[str, ...]:
        """Name the key and value projections of the attention layers (Theta of Sec. 3.1).

        Args:
            scope: ``cross`` (text), ``self`` (picture) or ``both``.

        Raises:
            BackboneError: Unknown scope, or projections that cannot be edited: fused, under a
                LoRA, quantised, or not in memory.
        """
        return projections(self.module, scope)

    def weights(self, scope: str = "both") -> dict[str, Tensor]:
        """Give the live weights of the sites, detached (writing to them changes the model)."""
        return {name: self.module.get_parameter(name).data for name in self.sites(scope)}

    @torch.no_grad()
    def latents(
        self, pixels: Float[Tensor, "n 3 h w"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c y x"]:
        """Encode pictures in [0, 1] as the scaled latents the U-Net sees, in float32.

        Without a ``generator`` the posterior mean is taken.
        """
        vae = self.pipeline.vae
        with _precise(vae):
            batches = pixels.to(vae.device, vae.dtype).mul(2).sub(1).split(_ENCODE_BATCH)
            encoded = torch.cat([_posterior(vae.encode(batch), generator) for batch in batches])
        shift = vae.config.get("shift_factor") or 0.0
        return ((encoded.float() - shift) * vae.config.scaling_factor).to(self._device)

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts as keyword arguments of the U-Net, batch first; see :meth:`embedded`."""
        return self.embedded(prompts)

    def embedded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts; gradients flow to the text encoders.

        XL adds ``text_embeds`` and ``time_ids`` (full size, no crop). Equal prompts are encoded
        once.
        """
        unique = list(dict.fromkeys(prompts))
        where = torch.tensor([unique.index(prompt) for prompt in prompts], device=self._device)
        encoded = self.pipeline.encode_prompt(
            unique,
            device=self._text_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        found = {"encoder_hidden_states": encoded[0]}
        if self._config.addition_embed_type == "text_time":
            sides = [self.resolution, self.resolution]
            found["text_embeds"] = encoded[2]
            found["time_ids"] = torch.tensor([[*sides, 0, 0, *sides]]).repeat(len(unique), 1)
        return {name: value.to(self._device)[where] for name, value in found.items()}

    def timesteps(self, count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
        """Draw timesteps, one from each of ``count`` equal parts of training, shuffled."""
        inside = torch.rand(count, generator=generator, dtype=torch.float64)
        spread = (torch.arange(count) + inside) / max(count, 1) * self.train_steps
        order = torch.randperm(count, generator=generator)
        return spread.long().clamp(max=self.train_steps - 1)[order]

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
        """Measure the squared denoising error of every sample (Eq. 1), mean over its entries.

        The error is that of what the model predicts (noise, velocity, picture or flow); as a
        weight on the error in x this is one particular ``omega_t``.

        Args:
            weights: Put in place of the module's own, which stays untouched. Gradients flow to
                these only.
            latents: Clean and scaled.
            noise: Of the same shape.
            timesteps: Integers below ``train_steps``.
            condition: From :meth:`condition`.
            weighting: ``uniform`` or ``min-snr``.
            mask: Weights of the latents' cells in the mean, not all 0; None counts all alike.

        Raises:
            BackboneError: ``weights`` names parameters the module lacks.
        """
        device = self._device
        latents, noise, timesteps = (each.to(device) for each in (latents, noise, timesteps))
        parameters = {name: value.detach() for name, value in self.module.named_parameters()}
        _require_known(weights, parameters)
        for name, value in weights.items():
            parameters[name] = value.to(parameters[name])
        mixed = self.schedule.mix(latents, noise, timesteps)  # x_t of Eq. 1
        arguments = _arguments(condition, self.module.dtype, device)
        states = arguments.pop("encoder_hidden_states")
        inputs = (mixed.to(self.module.dtype), self.schedule.times(timesteps), states)
        options = {**arguments, "return_dict": False}
        predicted = functional_call(self.module, parameters, inputs, options)[0].float()
        target = self.schedule.target(latents, noise, timesteps).float()
        error = predicted[:, : target.shape[1]] - target  # models that also predict a variance
        weight = self.schedule.weights(timesteps, weighting)
        squares = error.square()
        if mask is not None:
            squares = squares * (mask / mask.mean((1, 2, 3), keepdim=True)).to(squares)
        return weight * squares.flatten(1).mean(1)  # Eq. 1

    def register(
        self,
        identifier: str,
        *,
        rare: str | None = None,
        embeddings: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Float[Tensor, "vectors dim"]]:
        """Make ``identifier`` one token; see :func:`cones.backbones.identifier.register`."""
        return register(self.pipeline, identifier, rare=rare, embeddings=embeddings)

    def release(self) -> None:
        """Move the VAE and the text encoders to the CPU; a search needs the U-Net only."""
        self.pipeline.vae.to("cpu")
        for _, encoder in encoders(self.pipeline).values():
            encoder.to("cpu")

    def recall(self) -> None:
        """Move the VAE and the text encoders back to the U-Net's device, to draw pictures."""
        parts = [self.pipeline.vae, *(encoder for _, encoder in encoders(self.pipeline).values())]
        for part in parts:
            if part.device not in (self._device, torch.device("meta")):  # meta: offloaded
                part.to(self._device)

    @property
    def _config(self) -> Any:
        return self.module.config

    @property
    def _device(self) -> torch.device:
        return self.module.device

    @property
    def _text_device(self) -> torch.device:
        device = self.pipeline.text_encoder.device
        return self.pipeline._execution_device if device.type == "meta" else device


@contextmanager
def _precise(vae: nn.Module) -> Iterator[None]:
    """Hold a VAE that overflows in half precision in single precision meanwhile."""
    before = vae.dtype
    if not vae.config.get("force_upcast") or before != torch.float16:
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(before)


def _posterior(encoded: Any, generator: torch.Generator | None) -> Tensor:
    if not hasattr(encoded, "latent_dist"):
        return encoded.latents
    posterior = encoded.latent_dist
    return posterior.mode() if generator is None else posterior.sample(generator)


def _require_known(weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    unknown = [name for name in weights if name not in parameters]
    if unknown:
        raise BackboneError(
            f"found weights for {unknown[0]!r}, which the model lacks; expected names from "
            "sites(); search and load on one model"
        )


def _arguments(
    condition: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    moved = {name: value.to(device) for name, value in condition.items()}
    found: dict[str, Any] = {"encoder_hidden_states": moved.pop("encoder_hidden_states").to(dtype)}
    if moved:
        found["added_cond_kwargs"] = {name: value.to(dtype) for name, value in moved.items()}
    return found
