"""Small random pipelines with the structure of the real ones, and checkpoint files of them.

Widths are reduced, names are not: 64 px, two blocks, a vocabulary of letters. A checkpoint file
has the names under which Stable Diffusion was published.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from cones.models.protocol import Part, Pipeline


def _table(text: str) -> dict[str, str]:
    """Read pairs of names: that of diffusers, and the published one."""
    return dict(pair.split("=") for pair in text.split())


NARROW, WIDE = 32, 48  # widths of the text encoders
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
XL |= {"projection_class_embeddings_input_dim": 6 * 8 + WIDE, "use_linear_projection": True}
# For networks as small as these, in the order in which they replace parts of a name.
RESNET = _table("""norm1=in_layers.0 conv1=in_layers.2 norm2=out_layers.0 conv2=out_layers.3
    time_emb_proj=emb_layers.1 conv_shortcut=skip_connection""")
UNET = _table("""time_embedding.linear_1=time_embed.0 time_embedding.linear_2=time_embed.2
    add_embedding.linear_1=label_emb.0.0 add_embedding.linear_2=label_emb.0.2
    conv_in=input_blocks.0.0 conv_norm_out=out.0 conv_out=out.2
    down_blocks.0.downsamplers.0.conv=input_blocks.2.0.op
    up_blocks.0.upsamplers.0=output_blocks.1.2
    mid_block.resnets.0=middle_block.0 mid_block.resnets.1=middle_block.2
    mid_block.attentions.0=middle_block.1""")
for _k, _kind in enumerate(("resnets", "attentions")):
    for _b in (0, 1):
        UNET[f"down_blocks.{_b}.{_kind}.0"] = f"input_blocks.{2 * _b + 1}.{_k}"
        for _j in (0, 1):
            UNET[f"up_blocks.{_b}.{_kind}.{_j}"] = f"output_blocks.{2 * _b + _j}.{_k}"
VAE = _table("""mid_block.resnets.0=mid.block_1 mid_block.resnets.1=mid.block_2
    mid_block.attentions.0=mid.attn_1 down_blocks=down up_blocks.0=up.3 up_blocks.3=up.0
    up_blocks.1=up.2 up_blocks.2=up.1 resnets=block downsamplers.0=downsample
    upsamplers.0=upsample conv_shortcut=nin_shortcut conv_norm_out=norm_out group_norm=norm
    to_q=q to_k=k to_v=v to_out.0=proj_out""")
CLIP = {"text_model.": ""}
OPEN_CLIP = CLIP | _table("""encoder.layers=transformer.resblocks self_attn=attn
    final_layer_norm=ln_final layer_norm=ln_ fc1=c_fc fc2=c_proj
    embeddings.token_embedding=token_embedding text_projection.weight=text_projection
    embeddings.position_embedding.weight=positional_embedding""")


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
    second, clip = getattr(pipeline, "text_encoder_2", None), pipeline.text_encoder
    first = "conditioner.embedders.0" if second is not None else "cond_stage_model"
    tensors = _renamed(pipeline.unet, "model.diffusion_model.", UNET)
    tensors |= _renamed(pipeline.vae, "first_stage_model.", VAE)
    if clip.config.hidden_act == "gelu":
        tensors |= _renamed(clip, f"{first}.model.", OPEN_CLIP)
    else:
        tensors |= _renamed(clip, f"{first}.transformer.text_model.", CLIP)
    if second is not None:
        tensors |= _renamed(second, "conditioner.embedders.1.model.", OPEN_CLIP)
    save_file({name: weight.clone().contiguous() for name, weight in tensors.items()}, path)


def _renamed(part: Part, prefix: str, table: Mapping[str, str]) -> dict[str, Tensor]:
    found, weights = {}, part.state_dict()
    for name, weight in weights.items():
        key = name
        for old, new in {
            **(RESNET if table is UNET and "resnets" in key else {}),
            **table,
        }.items():
            key = key.replace(old, new)
        if table is VAE and "attentions" in name and weight.ndim == 2:
            weight = weight[:, :, None, None]  # published as a convolution
        if table is OPEN_CLIP and "q_proj" in key:  # published as one matrix
            weight = torch.cat([weights[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
            key = key.replace("q_proj.", "in_proj_")
        if not (table is OPEN_CLIP and ("k_proj" in key or "v_proj" in key)):
            found[prefix + key] = weight.T if key == "text_projection" else weight
    return found
