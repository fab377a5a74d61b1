"""Which pipelines are taken: what works in a search, and nothing that fails in its middle."""

import functools
from collections.abc import Callable

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNetMotionModel,
)
from torch import Tensor

from cones.errors import ModelError
from cones.models import Model, Pipeline, UNetModel, model_for
from fakes import WIDTH, tiny_pipeline


def drawn(model: Model) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    noised = torch.randn(2, *model.latent_shape, generator=draw)
    return noised, torch.tensor([10, 700]), model.condition(["a cat", "a dog on the grass"])


@pytest.mark.parametrize(
    "kind",
    [
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        functools.partial(StableDiffusionControlNetPipeline, controlnet=None),
    ],
)
def test_accepts_the_other_pipelines_of_the_model(kind: Callable) -> None:
    pipeline = tiny_pipeline()
    parts = dict(pipeline.components)
    if isinstance(kind, functools.partial):
        kind = kind.func
        parts["controlnet"] = ControlNetModel.from_unet(pipeline.unet)
    other = model_for(kind(**parts, requires_safety_checker=False))
    found = other.predict({}, *drawn(other))
    assert torch.equal(found, model_for(pipeline).predict({}, *drawn(other)))


def changed_unet(**config: object) -> Pipeline:
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(**config)
    return pipeline


def animated() -> Pipeline:
    pipeline = tiny_pipeline()
    pipeline.unet = UNetMotionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        layers_per_block=1,
    )
    return pipeline


def without(part: str) -> Pipeline:
    pipeline = tiny_pipeline()
    setattr(pipeline, part, None)
    return pipeline


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (object, "found a object; expected a pipeline of one of these families: unet"),
        (animated, "found a StableDiffusionPipeline; expected a pipeline of one of"),
        (lambda: changed_unet(in_channels=9), "with in_channels 9; .*not a model for inpainting"),
        (lambda: changed_unet(class_embed_type="projection"), "'projection'.*unCLIP"),
        (lambda: changed_unet(addition_embed_type="image"), "addition_embed_type 'image'"),
        (lambda: changed_unet(encoder_hid_dim_type="text_proj"), "hid_dim_type 'text_proj'"),
        (lambda: without("text_encoder"), "with no text_encoder"),
        (lambda: without("tokenizer"), "with no tokenizer"),
    ],
)
def test_refuses_what_would_fail_in_the_middle_of_a_search(make: Callable, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_for(make())
    with pytest.raises(ModelError, match="expected a U-Net that text alone conditions"):
        UNetModel(make())


def test_an_ip_adapter_is_refused_by_the_search_only() -> None:
    pipeline = changed_unet(encoder_hid_dim_type="ip_image_proj")
    assert model_for(pipeline).weights()
    with pytest.raises(ModelError, match="call pipeline.unload_ip_adapter"):
        model_for(pipeline).condition(["a cat"])
