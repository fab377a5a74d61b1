"""Stable Diffusion 3, Flux, PixArt and Sana: a transformer in the place of the U-Net.

A family says which pipelines it knows, how prompts are encoded and how the network is called. The
rest is that of a U-Net: weights are handed in, pictures are encoded, all else is held constant.
Pipelines for editing, inpainting or distilled time (Sana Sprint) are not known.
"""

import inspect
from typing import ClassVar

import torch
from torch import Tensor

from cones.models.noise import FlowSchedule, NoiseSchedule
from cones.models.protocol import Arguments, Latents, Part, Pipeline, Times
from cones.models.unet import UNetModel, home_of


class TransformerModel(UNetModel):
    """What the families share; ``kinds`` are the names of their pipelines."""

    kinds: ClassVar[tuple[str, ...]]
    network = "transformer"
    schedules = FlowSchedule
    expected = "a whole pipeline of its family; load it with all its parts"

    @classmethod
    def knows(cls, pipeline: Pipeline) -> bool:
        """Tell whether ``pipeline`` draws with this network, from text or over a picture."""
        whole = getattr(pipeline, "transformer", None) is not None
        return whole and type(pipeline).__name__ in cls.kinds

    @staticmethod
    def _misfits(pipeline: Pipeline) -> list[str]:
        return []

    def _prompts(self, prompts: list[str]) -> tuple[Part, ...]:
        """Let the pipeline encode prompts with the settings that it draws with."""
        encode = self.pipeline.encode_prompt
        known = inspect.signature(encode).parameters
        drawing = inspect.signature(type(self.pipeline).__call__).parameters
        given: dict[str, Part] = {"prompt": prompts, "device": home_of(self.pipeline.text_encoder)}
        given |= {f"prompt_{k}": None for k in (2, 3)} | {"do_classifier_free_guidance": False}
        names = ("max_sequence_length", "complex_human_instruction")
        given |= {name: drawing[name].default for name in names if name in drawing}
        return encode(**{name: value for name, value in given.items() if name in known})

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        """Encode prompts, each as it comes."""
        states, mask, *_ = self._prompts(prompts)
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def _arguments(self, noised: Latents, timesteps: Times, added: dict[str, Tensor]) -> Arguments:
        """Say how the network is called."""
        return {"hidden_states": noised, "timestep": self._told(timesteps), **added}

    def _told(self, timesteps: Times) -> Tensor:
        """Give timesteps as the network was taught them: 1,000 times the share of noise."""
        schedule = self.schedule
        if isinstance(schedule, FlowSchedule):
            return schedule.sigmas(timesteps) * schedule.steps
        return timesteps


class StableDiffusion3Model(TransformerModel):
    """Stable Diffusion 3 and 3.5: joint attention, two CLIP encoders and T5."""

    kinds = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self._prompts(prompts)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}


class FluxModel(TransformerModel):
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


class PixArtModel(TransformerModel):
    """PixArt-alpha and -sigma: cross-attention to T5; diffusion, as Stable Diffusion 1.x."""

    kinds = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    schedules = NoiseSchedule

    def _arguments(self, noised: Latents, timesteps: Times, added: dict[str, Tensor]) -> Arguments:
        side, one = noised.new_full((len(noised), 2), self.size), noised.new_ones(len(noised), 1)
        found = super()._arguments(noised, timesteps, added)
        return {**found, "added_cond_kwargs": {"resolution": side, "aspect_ratio": one}}


class SanaModel(TransformerModel):
    """Sana: linear attention in the picture, cross-attention to Gemma."""

    kinds = ("SanaPipeline",)

    def _told(self, timesteps: Times) -> Tensor:
        return super()._told(timesteps) * self.module.config.timestep_scale
