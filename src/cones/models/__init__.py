"""The only modules that know a diffusion pipeline from the inside.

A new family of models is one subclass of :class:`Model`, and one name in ``MODELS``.
"""

from cones.errors import ModelError
from cones.models.base import Condition, Model, Pipeline
from cones.models.transformer import FluxModel, PixArtModel, SanaModel, StableDiffusion3Model
from cones.models.unet import UNetModel

__all__ = ["MODELS", "Condition", "Model", "Pipeline", "UNetModel", "model_for"]

MODELS = (UNetModel, StableDiffusion3Model, FluxModel, PixArtModel, SanaModel)


def model_for(pipeline: Pipeline) -> Model:
    """Choose the class that knows ``pipeline``; its pictures and weights stay as they are.

    Pipelines that need more than a prompt (unCLIP, inpainting, editing) are a ModelError.
    """
    for kind in MODELS:
        if kind.knows(pipeline):
            return kind(pipeline)
    raise ModelError(
        f"found a {type(pipeline).__name__}; expected a pipeline of one of these families: "
        "unet, sd3, flux, pixart, sana; load Stable Diffusion, Flux, PixArt or Sana"
    )
