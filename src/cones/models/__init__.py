"""The only modules that know a diffusion pipeline from the inside.

A new family of models is one subclass of :class:`Model`, and one line in ``MODELS``.
"""

from cones.errors import ModelError
from cones.models.protocol import Condition, Model, Pipeline
from cones.models.transformer import FluxModel, PixArtModel, SanaModel, StableDiffusion3Model
from cones.models.unet import UNetModel

__all__ = ["MODELS", "Condition", "Model", "Pipeline", "UNetModel", "model_for"]

MODELS: dict[str, type[Model]] = {
    "unet": UNetModel,
    "sd3": StableDiffusion3Model,
    "flux": FluxModel,
    "pixart": PixArtModel,
    "sana": SanaModel,
}


def model_for(pipeline: Pipeline) -> Model:
    """Choose the class that knows ``pipeline``; its pictures and weights stay as they are.

    Pipelines that need more than a prompt (unCLIP, inpainting, editing) are a ModelError.
    """
    for kind in MODELS.values():
        if kind.knows(pipeline):
            return kind(pipeline)
    raise ModelError(
        f"found a {type(pipeline).__name__}; expected a pipeline of one of these families: "
        f"{', '.join(MODELS)}; load Stable Diffusion, Flux, PixArt or Sana"
    )
