"""The one sampling loop: text to picture, image to image, and inpainting.

A picture depends on its own seed alone (up to rounding, which differs by batch size), so models
can be compared noise for noise. Inpainting puts the photo, noised as the next step expects it,
back outside the mask after every step: diffusers' way for latents of four channels, here for any.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cones.errors import PromptError
from cones.models import builtin, model_for
from cones.models.protocol import Model, Pipeline, Progress
from cones.subject import Photo, read_pixels

STEPS, FEW_STEPS = 25, 4
TRACE = 1 / 16  # of grey that JPEG and scaling leave in a mask: black, or white


def sample(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    image: Photo | None = None,
    mask_image: Photo | None = None,
    strength: float = 0.8,
    batch: int | None = None,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """Draw one picture per prompt and seed with the model as it is.

    Args:
        pipeline: Any pipeline of the model; pictures are drawn from text alone, or over ``image``.
        prompts: One per picture.
        seeds: One per picture.
        num_inference_steps: By default 25, or 4 for models made for few.
        guidance_scale: By default the model's own.
        negative_prompt: What to stay away from.
        height: In pixels, by default the model's own; a photo gives squares of the model's size.
        width: Likewise.
        image: Photo to draw over.
        mask_image: Of the same size: white is drawn anew, black stays. None draws over all.
        strength: How much of the photo is drawn anew, above 0 to 1: the share of steps made.
        batch: Pictures in memory at once; by default 8 up to 256 pixels, 4 up to 512, else 1.
        progress: Called as ``progress("draw", done, total)``.

    Raises:
        PromptError: Counts, steps or strength do not fit, or the mask is black.
        SubjectError: A photo cannot be read.
    """
    model = model_for(pipeline)
    own_steps, own_guidance = defaults(model)
    steps = num_inference_steps or own_steps
    if len(prompts) != len(seeds) or steps < 1:
        raise PromptError(
            f"found {len(prompts)} prompts, {len(seeds)} seeds and {steps} steps; expected one "
            "seed per prompt and at least one step; change them"
        )
    options = {
        "num_inference_steps": steps,
        "guidance_scale": own_guidance if guidance_scale is None else guidance_scale,
    }
    photo = None if image is None else _read(model, image, mask_image, steps, strength)
    options |= {"height": height, "width": width} if photo is None else {"strength": strength}
    artist = _artist(pipeline, over=photo is not None)
    count = batch or (8 if model.size <= 256 else 4 if model.size <= 512 else 1)
    images: list[Image.Image] = []
    with _quiet(artist):
        for start in range(0, len(prompts), count):
            said, chosen = list(prompts[start : start + count]), seeds[start : start + count]
            given = {"negative_prompt": [negative_prompt] * len(said)} if negative_prompt else {}
            given |= {} if photo is None else photo.options(model, chosen)
            draws = [torch.Generator().manual_seed(seed) for seed in chosen]
            drawn = artist(said, generator=draws, **options, **given).images
            images += drawn if photo is None else map(photo.pasted, drawn)
            if progress:
                progress("draw", len(images), len(prompts))
    return images


def defaults(model: Model) -> tuple[int, float]:
    """Give the number of steps and the guidance that a model is made for."""
    pipeline = model.pipeline
    own = inspect.signature(type(pipeline).__call__).parameters["guidance_scale"].default
    if not is_distilled(pipeline):
        return STEPS, builtin.GUIDANCE if model.name == builtin.NAME else own
    hears_guidance = pipeline.unet.config.time_cond_proj_dim is not None  # as one of its inputs
    return FEW_STEPS, own if hears_guidance else 1.0


def is_distilled(pipeline: Pipeline) -> bool:
    """Tell models of few steps (turbo, LCM, Lightning), which only their own sampler draws."""
    config = pipeline.scheduler.config
    trailing = config.get("timestep_spacing") == "trailing"
    return (
        type(pipeline.scheduler).__name__ in ("LCMScheduler", "TCDScheduler")
        or (trailing and not config.get("rescale_betas_zero_snr"))
        or getattr(pipeline.unet.config, "time_cond_proj_dim", None) is not None
    )


@dataclass(frozen=True)
class _Photo:
    """A photo to draw over, and where."""

    pixels: Float[Tensor, "1 3 h w"]
    inside: Float[Tensor, "1 1 h w"] | None  # 1 is drawn anew, 0 stays

    def options(self, model: Model, seeds: Sequence[int]) -> dict[str, Tensor | Callable]:
        """Give what the image-to-image pipeline is handed for these seeds."""
        found = {"image": self.pixels.expand(len(seeds), -1, -1, -1)}
        if self.inside is None:
            return found
        noise = []
        for seed in seeds:  # the pipeline's own noise: its second draw, after the encoder's
            draw = torch.Generator().manual_seed(seed)
            _, second = (torch.randn(1, *model.latent_shape, generator=draw) for _ in range(2))
            noise.append(second)
        # A cell of the latents is drawn anew if any of its pixels is.
        cells = F.adaptive_max_pool2d(self.inside, model.latent_shape[1:]).ceil()
        kept = {"clean": model.encode(self.pixels), "noise": torch.cat(noise), "cells": cells}
        return found | {"callback_on_step_end": partial(_put_back, **kept)}

    def pasted(self, drawn: Image.Image) -> Image.Image:
        """Lay what was drawn over the photo through the mask."""
        if self.inside is None:
            return drawn
        before, mask = (
            Image.fromarray((255 * x).round().byte().numpy())
            for x in (self.pixels[0].permute(1, 2, 0), self.inside[0, 0])
        )
        return Image.composite(drawn, before, mask)


def _read(
    model: Model, image: Photo, mask_image: Photo | None, steps: int, strength: float
) -> _Photo:
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise PromptError(
            f"found strength {strength} of {steps} steps; expected above 0, at most 1, and at "
            "least one step; raise strength or num_inference_steps"
        )
    pixels = read_pixels(image, size=model.size)
    if mask_image is None:
        return _Photo(pixels, None)
    grey = read_pixels(mask_image, size=model.size).mean(1, keepdim=True)
    inside = ((grey - TRACE) / (1 - 2 * TRACE)).clamp(0, 1)
    if not inside.any():
        raise PromptError(
            "found a mask that is black in the centre square; expected white where the picture "
            "is to be drawn anew; swap black and white"
        )
    return _Photo(pixels, inside)


def _put_back(
    pipeline: Pipeline,
    step: int,
    time: Tensor,
    given: dict[str, Tensor],
    *,
    clean: Float[Tensor, "1 c y x"],
    noise: Float[Tensor, "n c y x"],
    cells: Float[Tensor, "1 1 y x"],
) -> dict[str, Tensor]:
    """Put the photo, noised as the next step expects it, where nothing is to be drawn."""
    latents = given["latents"]
    clean, noise, cells = (each.to(latents) for each in (clean, noise, cells))
    left = pipeline.num_timesteps - step - 1
    if left:
        following = pipeline.scheduler.timesteps[-left:][:1]
        clean = pipeline.scheduler.add_noise(clean, noise, following)
    return {**given, "latents": cells * latents + (1 - cells) * clean}


def _artist(pipeline: Pipeline, *, over: bool) -> Pipeline:
    """Give the pipeline that draws from text, or over pictures, with the parts of ``pipeline``."""
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    if over:
        kind = StableDiffusionXLImg2ImgPipeline if xl else StableDiffusionImg2ImgPipeline
    else:
        kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    takes_image = "image" in inspect.signature(type(pipeline).__call__).parameters
    if isinstance(pipeline, kind) or not (over or takes_image):
        return pipeline
    parts = {**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler)}
    parts |= {
        "requires_safety_checker": pipeline.config.get("requires_safety_checker", False),
        "force_zeros_for_empty_prompt": pipeline.config.get("force_zeros_for_empty_prompt", True),
        "add_watermarker": getattr(pipeline, "watermark", None) is not None,
    }
    wanted = inspect.signature(kind.__init__).parameters
    return kind(**{name: part for name, part in parts.items() if name in wanted})


@contextmanager
def _quiet(pipeline: Pipeline) -> Iterator[None]:
    """Hide the pipeline's own progress bar meanwhile, whatever happens."""
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)
