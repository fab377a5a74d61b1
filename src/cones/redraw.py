"""Draw over a photo with concepts: all of it (image to image), or only where a mask is white.

diffusers' own image-to-image pipeline is built from the parts of the loaded one. With a mask, the
photo with the noise of the moment is put back outside it after every step: what diffusers'
inpainting does for plain U-Nets of four channels, here for any number. At the end the pixels
outside are those of the photo itself.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from cones.backbones import backbone_for
from cones.concept import Concept
from cones.errors import SearchError, SubjectError
from cones.generate import BATCH, edit
from cones.subject import read_images

TRACE = 1 / 16  # of grey in a mask, which JPEG and scaling leave beside edges: black, or white


@dataclass(frozen=True)
class Photo:
    """A picture to draw over; its centre square is kept.

    Attributes:
        picture: The file.
        mask: A file of equal size: white is drawn anew, black stays, grey is mixed. None draws
            over all of it.

    Raises:
        SubjectError: A file cannot be read, the sizes differ, or the mask is black.
    """

    picture: Path
    mask: Path | None = None

    def __post_init__(self) -> None:
        """Read both files once, so that nothing is found wrong later."""
        files = [self.picture] if self.mask is None else [self.picture, self.mask]
        read_images(files, size=1)
        if self.mask is None:
            return
        sizes = [_size(self.picture), _size(self.mask)]
        if sizes[0] != sizes[1]:
            raise SubjectError(
                f"found a mask of {sizes[1][0]}x{sizes[1][1]} pixels for a picture of "
                f"{sizes[0][0]}x{sizes[0][1]}; expected equal sizes; draw it over the picture"
            )
        if not self.inside(64).any():
            raise SubjectError(
                "found a mask that is black in the centre square; expected white where the "
                "picture is to be drawn anew; swap black and white"
            )

    def pixels(self, size: int) -> Float[Tensor, "1 3 size size"]:
        """Read the picture as RGB in [0, 1]."""
        return read_images([self.picture], size=size)

    def inside(self, size: int) -> Float[Tensor, "1 1 size size"]:
        """Read the mask: 1 is drawn anew, 0 stays; ones if there is none."""
        if self.mask is None:
            return torch.ones(1, 1, size, size)
        grey = read_images([self.mask], size=size).mean(1, keepdim=True)
        return ((grey - TRACE) / (1 - 2 * TRACE)).clamp(0, 1)

    @property
    def digests(self) -> dict[str, str]:
        """Name the content of the files."""
        files = {"picture": self.picture, "mask": self.mask}
        return {
            name: hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            for name, file in files.items()
            if file is not None
        }


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as opened:
        return ImageOps.exif_transpose(opened).size


def require_amount(amount: float, steps: int) -> None:
    """Refuse an amount that leaves no step, or more than all.

    Raises:
        SearchError: It is not above 0 and at most 1, or less than a step.
    """
    if not 0 < amount <= 1 or int(steps * amount) < 1:
        raise SearchError(
            f"found amount {amount} of {steps} steps; expected above 0, at most 1, and at least "
            "one step; raise the amount or the steps"
        )


def redraw(
    pipeline: Any,
    concepts: Sequence[Concept],
    prompt: str,
    photo: Photo,
    *,
    amount: float = 0.6,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 7.5,
    count: int = 4,
    strength: float = 1.0,
    negative_prompt: str | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Image.Image]:
    """Draw over a photo with the concepts' neurons shut, or at their values (App. A10).

    Args:
        pipeline: Text-to-image pipeline; its weights are as before afterwards, bit for bit.
        concepts: Concepts to join; none draws with the untouched model.
        prompt: With the concepts' identifiers in it.
        photo: What to draw over, and where.
        amount: Share of the sampling steps that are made: small stays near the photo, 1 keeps
            nothing but its rough layout.
        seed: Of the first picture; the others count on.
        steps: Steps of the pipeline's sampler, of which ``amount`` are made.
        guidance: Scale of classifier-free guidance.
        count: Pictures.
        strength: 1 shuts or writes the values, less goes only part of the way there.
        negative_prompt: What to stay away from.
        on_progress: Called with pictures done and their number.

    Returns:
        The pictures, of the model's resolution.

    Raises:
        ConesError: Of the part concerned; the model is as before.
    """
    require_amount(amount, steps)
    side = backbone_for(pipeline).resolution
    pixels, inside = photo.pixels(side), photo.inside(side)
    edited = edit(pipeline, concepts, strength=strength)
    backbone_for(pipeline).recall()
    over = _image_to_image(pipeline)
    images: list[Image.Image] = []
    with nullcontext() if edited is None else edited.applied(pipeline.unet):
        for start in range(0, count, BATCH):
            seeds = range(seed + start, seed + min(start + BATCH, count))
            kept = None if photo.mask is None else _kept(pipeline, pixels, inside, seeds)
            drawn = over(
                [prompt] * len(seeds),
                image=pixels.expand(len(seeds), -1, -1, -1),
                strength=amount,
                num_inference_steps=steps,
                guidance_scale=guidance,
                negative_prompt=[negative_prompt] * len(seeds) if negative_prompt else None,
                generator=[torch.Generator().manual_seed(s) for s in seeds],
                callback_on_step_end=kept,
            ).images
            images += [_pasted(image, pixels, inside) for image in drawn]
            if on_progress:
                on_progress(len(images), count)
    return images


def _image_to_image(pipeline: Any) -> Any:
    """Build diffusers' image-to-image pipeline around the loaded parts, with its own sampler."""
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline

    parts = {**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler)}
    if getattr(pipeline, "text_encoder_2", None) is None:
        kind = StableDiffusionImg2ImgPipeline
        parts["requires_safety_checker"] = pipeline.config.requires_safety_checker
    else:
        kind = StableDiffusionXLImg2ImgPipeline
        parts["force_zeros_for_empty_prompt"] = pipeline.config.force_zeros_for_empty_prompt
        parts["add_watermarker"] = pipeline.watermark is not None
    over = kind(**parts)
    over.set_progress_bar_config(disable=True)
    return over


def _kept(pipeline: Any, pixels: Tensor, inside: Tensor, seeds: Sequence[int]) -> Callable:
    """Draw the latents and noise that the pipeline will draw, in its order, and keep the outside.

    A cell of the latents is drawn anew if any of its pixels is.
    """
    backbone = backbone_for(pipeline)
    clean, noise = [], []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        clean.append(backbone.latents(pixels, generator=draw))
        shape = (1, *backbone.latent_shape)
        noise.append(torch.randn(shape, generator=draw, dtype=pipeline.unet.dtype))
    cells = F.adaptive_max_pool2d(inside, backbone.latent_shape[1:]).ceil()
    return partial(_put_back, clean=torch.cat(clean), noise=torch.cat(noise), cells=cells)


def _put_back(
    pipeline: Any,
    step: int,
    time: Any,
    given: dict[str, Any],
    *,
    clean: Float[Tensor, "n c y x"],
    noise: Float[Tensor, "n c y x"],
    cells: Float[Tensor, "1 1 y x"],
) -> dict[str, Any]:
    """Put the photo, noised as the next step expects it, where nothing is to be drawn."""
    latents = given["latents"]
    clean, noise, cells = (each.to(latents) for each in (clean, noise, cells))
    left = pipeline.num_timesteps - step - 1
    if left:
        following = pipeline.scheduler.timesteps[-left:][:1]
        clean = pipeline.scheduler.add_noise(clean, noise, following)
    return {**given, "latents": cells * latents + (1 - cells) * clean}


def _pasted(image: Image.Image, pixels: Tensor, inside: Tensor) -> Image.Image:
    """Lay what was drawn over the photo through the mask."""
    before = pixels[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    mask = inside[0, 0].mul(255).round().byte().numpy()
    return Image.composite(image, Image.fromarray(before), Image.fromarray(mask))
