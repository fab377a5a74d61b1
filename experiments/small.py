"""Small random pipelines with the structure of the real ones, and checkpoint files of them.

Widths are reduced, names are not: 64 px, two blocks, a vocabulary of letters. A checkpoint file
has the names under which Stable Diffusion was published.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from cones.models.base import Part, Pipeline
from cones.models.checkpoint import published

NARROW, WIDE = 32, 48  # widths of the text encoders
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
XL |= {"projection_class_embeddings_input_dim": 6 * 8 + WIDE, "use_linear_projection": True}


def tokenizer() -> Part:
    """Build a CLIP tokenizer of letters that knows one rare word."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    ends = [f"{letter}</w>" for letter in letters]
    entries = [*letters, *ends, "sk", "sks</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    merges = [("s", "k"), ("sk", "s</w>")]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def text_encoder(width: int, act: str, kind: type = CLIPTextModel) -> Part:
    """Build a text encoder of two layers."""
    said = tokenizer()
    sizes = {"hidden_size": width, "intermediate_size": width, "projection_dim": width}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(said)}
    sizes |= {"max_position_embeddings": said.model_max_length, "hidden_act": act}
    ids = {"bos_token_id": said.bos_token_id, "eos_token_id": 2}  # 2 is what published files say
    return kind(CLIPTextConfig(**sizes, **ids, pad_token_id=said.pad_token_id)).eval()


def vae(**scaling: float) -> Part:
    """Build an autoencoder of four blocks."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "norm_num_groups": 2}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 4, "block_out_channels": (4,) * 4}
    return diffusers.AutoencoderKL(**blocks, sample_size=64, scaling_factor=0.5, **scaling).eval()


def small(
    kind: str = "StableDiffusionPipeline",
    *,
    scheduler: Part = None,
    v: bool = False,
    **unet: object,
) -> Pipeline:
    """Build a pipeline of a class of diffusers; ``v`` gives it the parts of 2.x."""
    torch.manual_seed(0)
    xl, width = "XL" in kind, WIDE if v else NARROW
    shape = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1}
    shape |= {"attention_head_dim": 2, "norm_num_groups": 4, "use_linear_projection": v}
    shape |= {"down_block_types": ("CrossAttnDownBlock2D",) * 2}
    shape |= {"up_block_types": ("CrossAttnUpBlock2D",) * 2}
    shape |= {"cross_attention_dim": NARROW + WIDE, **XL} if xl else {"cross_attention_dim": width}
    parts: dict[str, Part] = {
        "vae": vae(),
        "text_encoder": text_encoder(width, "gelu" if v else "quick_gelu"),
        "tokenizer": tokenizer(),
        "unet": diffusers.UNet2DConditionModel(**(shape | unet)).eval(),
        "scheduler": scheduler or diffusers.DDIMScheduler(**SCHEDULE),
    }
    if "ControlNet" in kind:
        parts["controlnet"] = diffusers.ControlNetModel.from_unet(parts["unet"])
    if xl:
        second = text_encoder(WIDE, "gelu", CLIPTextModelWithProjection)
        parts |= {"text_encoder_2": second, "tokenizer_2": tokenizer()}
        return getattr(diffusers, kind)(**parts, add_watermarker=False)
    unchecked = {"safety_checker": None, "requires_safety_checker": False}
    return getattr(diffusers, kind)(**parts, **unchecked, feature_extractor=None)


_VELOCITY = diffusers.DDIMScheduler(**SCHEDULE, prediction_type="v_prediction")
_LCM = diffusers.LCMScheduler(**SCHEDULE)
_TURBO = diffusers.EulerAncestralDiscreteScheduler(**SCHEDULE, timestep_spacing="trailing")
FAMILIES: dict[str, Callable[[], Pipeline]] = {
    "SD 1.x": small,
    "SD 2.x, v-prediction": partial(small, scheduler=_VELOCITY, v=True),
    "SDXL": partial(small, "StableDiffusionXLPipeline"),
    "img2img": partial(small, "StableDiffusionImg2ImgPipeline"),
    "ControlNet": partial(small, "StableDiffusionControlNetPipeline"),
    "LCM": partial(small, scheduler=_LCM, time_cond_proj_dim=8),
    "turbo": partial(small, scheduler=_TURBO),
}


def save_single_file(pipeline: Pipeline, path: Path) -> None:
    """Write a checkpoint under the published names, and the configuration beside it."""
    pipeline.save_pretrained(path.with_suffix(""))
    weights = published(pipeline).items()
    save_file({name: weight.clone().contiguous() for name, weight in weights}, path)
