"""The one sampling loop: text to picture, and picture to picture.

A picture depends on its own seed alone (up to rounding, which differs by batch size), so models
can be compared noise for noise. Drawing itself is diffusers'; here are the settings that each
model is made for, and the seeds.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TypedDict, Unpack

import torch
from diffusers.pipelines.auto_pipeline import (
    AutoPipelineForImage2Image,
    AutoPipelineForText2Image,
)
from PIL import Image

from cones.errors import PromptError
from cones.models import builtin, model_for
from cones.models.base import Model, Part, Pipeline, Progress
from cones.models.prompts import parts, told
from cones.subject import Photo, read_pixels

STEPS, FEW_STEPS = 25, 4
STRENGTH = 0.8


class Options(TypedDict, total=False):
    """How to draw. What is left out, or None, is the model's own.

    Attributes:
        num_inference_steps: By default 25, or 4 for models made for few.
        guidance_scale: Of classifier-free guidance.
        negative_prompt: Of all pictures.
        image: Photo to draw over; its centre square is kept.
        strength: Of image-to-image: the share of the steps that are made, .8 by default.
        control_image: What the pipeline's ControlNet follows, such as edges; its centre square.
        controlnet_conditioning_scale: How closely, 1 by default.
    """

    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | None
    image: Photo | None
    strength: float | None
    control_image: Photo | None
    controlnet_conditioning_scale: float | None


def sample(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> list[Image.Image]:
    """Draw one picture per prompt and seed with the model as it is.

    ``pipeline`` may be any of the model's: pictures are drawn from text unless there is an image,
    and its ControlNet is used if there is a control image. They are drawn in batches of
    :func:`at_once`, those of longer prompts apart; after each ``progress("draw", done, total)``
    is called.
    """
    model, images = model_for(pipeline), []
    jobs, count = [*zip(prompts, seeds, strict=True)], at_once(model.size)
    settings = _settled(model, options)
    unwanted = settings.pop("negative_prompt", None) or ""
    long = {p: max(len(parts(pipeline, each)) for each in (p, unwanted)) for p in {*prompts}}
    alike = [[*jobs] for _, jobs in groupby(jobs, lambda job: long[job[0]])]
    over, controlled = "image" in settings, "control_image" in settings
    if controlled and not over:  # as diffusers calls it then
        settings["image"] = settings.pop("control_image")
    with _artist(pipeline, over=over, controlled=controlled) as artist:
        settings |= _unchanged(artist, model)
        for batch in (same[k : k + count] for same in alike for k in range(0, len(same), count)):
            said, drawn = zip(*batch, strict=True)
            words = told(model, said, unwanted, long[said[0]])
            draws = [torch.Generator().manual_seed(seed) for seed in drawn]
            images += artist(**words, generator=draws, **settings).images
            if progress:
                progress("draw", len(images), len(jobs))
    return images


def at_once(size: int) -> int:
    """Say how many pictures are drawn in a batch: 8 up to 256 pixels, 4 up to 512, else one."""
    return 8 if size <= 256 else 4 if size <= 512 else 1


def _settled(model: Model, options: Options) -> dict[str, Part]:
    """Fill in the model's own settings, check them, and read the photo."""
    steps, guidance = defaults(model)
    found: dict[str, Part] = {"num_inference_steps": steps, "guidance_scale": guidance}
    found |= {name: value for name, value in options.items() if value is not None}
    steps, strength = found["num_inference_steps"], found.pop("strength", STRENGTH)
    made = int(steps * strength) if "image" in found else steps
    if not 1 <= made <= steps:
        raise PromptError(
            f"found {made} of {steps} steps to make; expected at least one, and strength up to 1; "
            "raise num_inference_steps, or change strength"
        )
    guided = inspect.signature(type(model.pipeline).__call__).parameters
    if found.get("negative_prompt") and "true_cfg_scale" in guided:
        raise PromptError(
            f"found a negative prompt for a {type(model.pipeline).__name__}, which is told its "
            "guidance and reads none; expected a prompt alone; leave negative_prompt out"
        )
    if "control_image" in found and getattr(model.pipeline, "controlnet", None) is None:
        raise PromptError(
            f"found a control image for a {type(model.pipeline).__name__}; expected a pipeline "
            "with a ControlNet to follow it; load one: load_pipeline(controlnet=...), --controlnet"
        )
    for name in ("image", "control_image"):
        found |= {name: read_pixels(found[name], size=model.size)} if name in found else {}
    return found | ({"strength": strength} if "image" in found else {})


def defaults(model: Model) -> tuple[int, float]:
    """Give the number of steps and the guidance that a model is made for."""
    pipeline = model.pipeline
    own = inspect.signature(type(pipeline).__call__).parameters["guidance_scale"].default
    if not is_distilled(pipeline):
        return STEPS, builtin.GUIDANCE if model.name == builtin.NAME else own
    # As one of its inputs.
    hears_guidance = getattr(model.module.config, "time_cond_proj_dim", None) is not None
    return FEW_STEPS, own if hears_guidance else 1.0


def is_distilled(pipeline: Pipeline) -> bool:
    """Tell models of few steps (turbo, LCM, Lightning), which only their own sampler draws."""
    config = pipeline.scheduler.config
    network: Part = model_for(pipeline).module.config
    trailing = config.get("timestep_spacing") == "trailing"
    return (
        type(pipeline.scheduler).__name__ in ("LCMScheduler", "TCDScheduler")
        or (trailing and not config.get("rescale_betas_zero_snr"))
        or getattr(network, "time_cond_proj_dim", None) is not None
        or ("axes_dims_rope" in network and not network.guidance_embeds)  # Flux schnell
    )


def _unchanged(artist: Pipeline, model: Model) -> dict[str, Part]:
    """Keep a pipeline from choosing another size, or cleaning V* out of the prompt."""
    factor, (_, height, width) = model.pipeline.vae_scale_factor, model.latent_shape
    own = {"height": height * factor, "width": width * factor, "clean_caption": False}
    own |= {"use_resolution_binning": False}
    known = inspect.signature(type(artist).__call__).parameters
    return {name: value for name, value in own.items() if name in known}


@contextmanager
def _artist(pipeline: Pipeline, *, over: bool, controlled: bool) -> Iterator[Pipeline]:
    """Lend what draws from text, or over a photo, with these parts; its progress bar is hidden."""
    artist = pipeline
    if over or "image" in inspect.signature(type(pipeline).__call__).parameters:
        kind = AutoPipelineForImage2Image if over else AutoPipelineForText2Image
        try:
            artist = kind.from_pipe(pipeline, **({} if controlled else {"controlnet": None}))
        except ValueError as error:
            raise PromptError(
                f"found a photo to draw over for a {type(pipeline).__name__}, of which diffusers "
                "has no such form; expected a prompt alone; leave image out"
            ) from error
    before = dict(getattr(artist, "_progress_bar_config", {}))
    artist.set_progress_bar_config(disable=True)
    try:
        yield artist
    finally:
        artist.set_progress_bar_config(**before)
