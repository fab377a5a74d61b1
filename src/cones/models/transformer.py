"""Stable Diffusion 3, Flux, PixArt and Sana: a transformer in the place of the U-Net.

Pipelines for editing, inpainting or distilled time (Sana Sprint) are not known.
"""

import inspect

import torch
from torch import Tensor

from cones.models.base import Arguments, Latents, Model, Times
from cones.models.noise import NoiseSchedule


class StableDiffusion3Model(Model):
    """Stable Diffusion 3 and 3.5: joint attention, two CLIP encoders and T5."""

    kinds = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self._prompts(prompts)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}


class FluxModel(Model):
    """Flux.1: joint attention, T5, and CLIP for the whole prompt; 2 x 2 latents are one token.

    The network is told the guidance that its pipeline draws with by default.
    """

    kinds = ("FluxPipeline", "FluxImg2ImgPipeline")

    def _shape(self) -> tuple[int, int, int]:
        side = self.pipeline.default_sample_size
        return (self.module.config.in_channels // 4, side, side)

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        states, pooled, _ = self._prompts(prompts)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def _arguments(self, noised: Latents, timesteps: Times, added: dict[str, Tensor]) -> Arguments:
        (n, c, y, x), like = noised.shape, {"device": noised.device, "dtype": noised.dtype}
        guidance = inspect.signature(type(self.pipeline).__call__).parameters["guidance_scale"]
        known = self.module.config.guidance_embeds
        return {
            "hidden_states": self.pipeline._pack_latents(noised, n, c, y, x),
            "timestep": self._told(timesteps).to(noised.dtype) / 1000,
            "guidance": torch.full([n], guidance.default, device=noised.device) if known else None,
            "img_ids": self.pipeline._prepare_latent_image_ids(n, y // 2, x // 2, **like),
            "txt_ids": torch.zeros(added["encoder_hidden_states"].shape[1], 3, **like),
            **added,
        }

    def _latents(self, predicted: Tensor) -> Latents:
        factor = self.pipeline.vae_scale_factor
        return self.pipeline._unpack_latents(predicted, self.size, self.size, factor)


class PixArtModel(Model):
    """PixArt-alpha and -sigma: cross-attention to T5; diffusion, as Stable Diffusion 1.x."""

    kinds = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    schedules = NoiseSchedule

    def _arguments(self, noised: Latents, timesteps: Times, added: dict[str, Tensor]) -> Arguments:
        side, one = noised.new_full((len(noised), 2), self.size), noised.new_ones(len(noised), 1)
        found = super()._arguments(noised, timesteps, added)
        return {**found, "added_cond_kwargs": {"resolution": side, "aspect_ratio": one}}


class SanaModel(Model):
    """Sana: linear attention in the picture, cross-attention to Gemma."""

    kinds = ("SanaPipeline",)

    def _told(self, timesteps: Times) -> Tensor:
        return super()._told(timesteps) * self.module.config.timestep_scale
