"""The one sampling loop: text to picture, image to image, and inpainting.

A picture depends on its own seed alone (up to rounding, which differs by batch size), so models
can be compared noise for noise. Inpainting puts the photo, noised as the next step expects it,
back outside the mask after every step: diffusers' way for latents of four channels, here for any.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, Unpack

import diffusers
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cones.errors import PromptError
from cones.models import builtin, model_for
from cones.models.protocol import Model, Part, Pipeline, Progress
from cones.subject import Photo, read_pixels

STEPS, FEW_STEPS = 25, 4
TRACE = 1 / 16  # of grey that JPEG and scaling leave in a mask: black, or white


class Options(TypedDict, total=False):
    """How to draw. What is left out, or None, is the model's own.

    Attributes:
        num_inference_steps: By default 25, or 4 for models made for few.
        guidance_scale: Of classifier-free guidance.
        negative_prompt: Of all pictures.
        height: In pixels; like ``width`` without a photo only.
        width: Likewise.
        image: Photo to draw over; its centre square is kept.
        mask_image: Where it is white the photo is drawn over; None is everywhere.
        strength: Of image-to-image: the share of the steps that are made, .8 by default.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | None
    height: int | None
    width: int | None
    image: Photo | None
    mask_image: Photo | None
    strength: float


def sample(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    batch: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> list[Image.Image]:
    """Draw one picture per prompt and seed with the model as it is.

    ``pipeline`` may be any of the model's: pictures are drawn from text unless there is an image.
    ``batch`` pictures are in memory at once: by default 8 up to 256 pixels, 4 up to 512, else 1;
    after each ``progress("draw", done, total)`` is called.

    Raises:
        PromptError: Counts, steps or strength do not fit, or the mask is black.
        SubjectError: A photo cannot be read.
    """
    model, images = model_for(pipeline), []
    if len(prompts) != len(seeds):
        raise PromptError(
            f"found {len(prompts)} prompts and {len(seeds)} seeds; expected a seed per prompt; "
            "give as many"
        )
    count = batch or (8 if model.size <= 256 else 4 if model.size <= 512 else 1)
    unwanted, photo, settings = _settled(model, **options)
    artist = _artist(pipeline, over=photo is not None)
    with _quiet(artist):
        for start in range(0, len(prompts), count):
            said, chosen = list(prompts[start : start + count]), seeds[start : start + count]
            given: dict[str, Part] = {} if photo is None else {**photo.options(model, chosen)}
            if unwanted:
                given["negative_prompt"] = [unwanted] * len(said)
            draws = [torch.Generator().manual_seed(seed) for seed in chosen]
            drawn = artist(said, generator=draws, **settings, **given).images
            images += drawn if photo is None else map(photo.pasted, drawn)
            if progress:
                progress("draw", len(images), len(prompts))
    return images


def _settled(
    model: Model,
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    image: Photo | None = None,
    mask_image: Photo | None = None,
    strength: float = 0.8,
) -> tuple[str | None, "_Photo | None", dict[str, float | int | None]]:
    """Fill in the model's own settings, check them, and read the photo."""
    steps, guidance = defaults(model)
    steps = steps if num_inference_steps is None else num_inference_steps
    guidance = guidance if guidance_scale is None else guidance_scale
    found = {"num_inference_steps": steps, "guidance_scale": guidance}
    made = steps if image is None else int(steps * strength)
    if not 1 <= made <= steps:
        raise PromptError(
            f"found {made} of {steps} steps to make; expected at least one, and strength up to 1; "
            "raise num_inference_steps, or change strength"
        )
    if image is None:
        return negative_prompt, None, {**found, "height": height, "width": width}
    photo = _Photo.of(model, image, mask_image)
    return negative_prompt, photo, {**found, "strength": strength}


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
    """A photo to draw over, and where: 1 is drawn anew, 0 stays."""

    pixels: Float[Tensor, "1 3 h w"]
    inside: Float[Tensor, "1 1 h w"] | None

    @classmethod
    def of(cls, model: Model, image: Photo, mask_image: Photo | None) -> "_Photo":
        pixels = read_pixels(image, size=model.size)
        if mask_image is None:
            return cls(pixels, None)
        grey = read_pixels(mask_image, size=model.size).mean(1, keepdim=True)
        inside = ((grey - TRACE) / (1 - 2 * TRACE)).clamp(0, 1)
        if not inside.any():
            raise PromptError(
                "found a mask that is black in the centre square; expected white where the "
                "picture is to be drawn anew; swap black and white"
            )
        return cls(pixels, inside)

    def options(self, model: Model, seeds: Sequence[int]) -> Mapping[str, Tensor | Callable]:
        """Give what the image-to-image pipeline is handed for these seeds."""
        found = {"image": self.pixels.expand(len(seeds), -1, -1, -1)}
        if self.inside is None:
            return found
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape, clean = (1, *model.latent_shape), model.encode(self.pixels)
        # The pipeline's own noise is its second draw, after that of the encoder.
        _, second = ([torch.randn(shape, generator=draw) for draw in draws] for _ in range(2))
        noise = torch.cat(second)
        # A cell of the latents is drawn anew if any of its pixels is.
        cells = F.adaptive_max_pool2d(self.inside, model.latent_shape[1:]).ceil()

        def put_back(artist: Pipeline, step: int, time: Tensor, given: dict) -> dict[str, Tensor]:
            latents, left = given["latents"], artist.num_timesteps - step - 1
            outside = clean.to(latents)
            if left:
                following = artist.scheduler.timesteps[-left:][:1]
                outside = artist.scheduler.add_noise(outside, noise.to(latents), following)
            return {"latents": outside.lerp(latents, cells.to(latents))}

        return {**found, "callback_on_step_end": put_back}

    def pasted(self, drawn: Image.Image) -> Image.Image:
        """Lay what was drawn over the photo through the mask."""
        if self.inside is None:
            return drawn
        before, mask = (
            Image.fromarray((255 * x).round().byte().numpy())
            for x in (self.pixels[0].permute(1, 2, 0), self.inside[0, 0])
        )
        return Image.composite(drawn, before, mask)


def _artist(pipeline: Pipeline, *, over: bool) -> Pipeline:
    """Give the pipeline that draws from text, or over pictures, with the parts of ``pipeline``."""
    xl = "XL" if getattr(pipeline, "text_encoder_2", None) is not None else ""
    kind = getattr(diffusers, f"StableDiffusion{xl}{'Img2Img' if over else ''}Pipeline")
    takes_image = "image" in inspect.signature(type(pipeline).__call__).parameters
    if isinstance(pipeline, kind) or not (over or takes_image):
        return pipeline
    wanted = inspect.signature(kind.__init__).parameters
    parts = {**pipeline.config, **pipeline.components}
    parts["scheduler"] = copy.deepcopy(pipeline.scheduler)
    parts["add_watermarker"] = getattr(pipeline, "watermark", None) is not None
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
