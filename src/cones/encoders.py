"""The only loader of encoders: a frozen CLIP or DINO to be handed to :mod:`cones.metrics`.

The built-in model's own CLIP has its text tower in common with the generator and saw the same
pictures, so what it says has to be read beside the judge's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cones.errors import BackboneError


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP of transformers with its tokenizer and the preparation of its pictures.

    Attributes:
        model: A ``CLIPModel``.
        tokenizer: Its tokenizer.
        mean: Of each colour, of pictures in [0, 1].
        spread: Standard deviation of each colour.
    """

    model: Any
    tokenizer: Any
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    spread: tuple[float, ...] = (0.5, 0.5, 0.5)

    @torch.no_grad()
    def images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed RGB in [0, 1]."""
        side = self.model.config.vision_config.image_size
        ready = _ready(squared(pixels, side, side), self.mean, self.spread)
        return _vectors(self.model.get_image_features(pixel_values=ready))

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Embed texts, cut to what the model can read."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=longest,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return _vectors(self.model.get_text_features(input_ids=tokens))


def _vectors(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output


@dataclass(frozen=True, eq=False)
class Dino:
    """A vision transformer of transformers, such as DINO ViT-S/16: its class token.

    Attributes:
        model: Takes ``pixel_values``.
        side: Of what it sees.
        mean: Of each colour, of pictures in [0, 1].
        spread: Standard deviation of each colour.
        batch: Pictures at once.
    """

    model: Any
    side: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    spread: tuple[float, ...] = (0.229, 0.224, 0.225)
    batch: int = 32

    @torch.no_grad()
    def images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed RGB in [0, 1]: short side to 8/7 of what it sees, then the middle (256, 224)."""
        ready = _ready(squared(pixels, self.side * 8 // 7, self.side), self.mean, self.spread)
        found = [
            self.model(pixel_values=p).last_hidden_state[:, 0] for p in ready.split(self.batch)
        ]
        return torch.cat(found)


def squared(pixels: Float[Tensor, "n 3 h w"], short: int, side: int) -> Float[Tensor, "n 3 s s"]:
    """Resize the short side, bicubic, and cut out the middle, as CLIP's and DINO's authors do."""
    height, width = pixels.shape[-2:]
    if (height, width) != (short, short):
        scale = short / min(height, width)
        size = (max(round(height * scale), short), max(round(width * scale), short))
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    top, left = ((length - side) // 2 for length in pixels.shape[-2:])
    return pixels[..., top : top + side, left : left + side]


def _ready(pixels: Tensor, mean: Sequence[float], spread: Sequence[float]) -> Tensor:
    centre, width = (torch.tensor(x).view(3, 1, 1) for x in (mean, spread))
    return (pixels.clamp(0, 1) - centre) / width


def load_dino(folder: Path | str) -> Dino:
    """Load a vision transformer (``ViTModel``, ``Dinov2Model``) from a local folder.

    Raises:
        BackboneError: There is none, or it cannot be read.
    """
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        side = int(model.config.image_size)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BackboneError(
            f"found no vision transformer in {str(folder)!r} ({said}); expected a copy of, for "
            "example, facebook/dino-vits16; check the path"
        ) from error
    return Dino(model.float().eval(), min(side, 224))


def load_clip(folder: Path | str) -> Clip:
    """Load a CLIP from a local folder in the layout of transformers.

    Args:
        folder: For the built-in model ``cones.mini.weights_path() / "clip"``.

    Raises:
        BackboneError: There is none, or it cannot be read.
    """
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"found no config.json in {str(folder)!r}; expected a folder with a CLIP in the "
            "layout of transformers; check the path"
        )
    options = {"local_files_only": True}
    try:
        model = CLIPModel.from_pretrained(folder, use_safetensors=True, **options).float()
        tokenizer = CLIPTokenizer.from_pretrained(folder, **options)
        prepared = CLIPImageProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BackboneError(
            f"found no readable CLIP in {str(folder)!r} ({said}); expected model, tokenizer and "
            "preprocessor; save all three there"
        ) from error
    mean, spread = tuple(prepared.image_mean), tuple(prepared.image_std)
    return Clip(model.eval().requires_grad_(False), tokenizer, mean, spread)
