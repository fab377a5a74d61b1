"""Give weights the names under which Stable Diffusion was published, as other programs read them.

diffusers reads this layout (1.x, 2.x, XL) but does not write it. Names are made by rule here. Then
diffusers' own reader has to give back every weight, bit for bit; where it does not, the layout
cannot hold the model, and that is said.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_TO_LDM_MAPPING,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from cones.errors import ModelError
from cones.models import model_for
from cones.models.base import Part, Pipeline

Weights = dict[str, Tensor]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
_BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.([a-z]+)\.(\d+)\.(.+)")
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
_RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_VAE = {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2"}
_VAE |= {"mid_block.attentions.0": "mid.attn_1", "down_blocks": "down", "up_blocks": "up"}
_VAE |= {"resnets": "block", "downsamplers.0": "downsample", "upsamplers.0": "upsample"}
_VAE |= {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm"}
_VAE |= {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def published(pipeline: Pipeline) -> Weights:
    """Collect the weights of a pipeline under their published names; most are not copied."""
    second = getattr(pipeline, "text_encoder_2", None)
    unet, vae, text = model_for(pipeline).module, pipeline.vae, pipeline.text_encoder
    place = "cond_stage_model." if second is None else "conditioner.embedders.0."
    found = _checked(unet, _unet, partial(convert_ldm_unet_checkpoint, config=unet.config))
    found |= _checked(vae, _vae, partial(convert_ldm_vae_checkpoint, config=vae.config))
    if text.config.hidden_act == "gelu":  # of OpenCLIP, as in 2.x
        found |= _open_clip(text, place)
    else:
        found |= _checked(text, partial(_clip, place=place), convert_ldm_clip_checkpoint)
    if second is not None:
        found |= _open_clip(second, "conditioner.embedders.1.")
        noise = pipeline.scheduler.config  # ComfyUI looks for two empty entries
        marks = {"v_pred": noise.prediction_type == "v_prediction"}
        marks["ztsnr"] = bool(noise.get("rescale_betas_zero_snr"))
        found |= {name: torch.zeros(0) for name, here in marks.items() if here}
    return found


def _checked(
    part: Part, write: Callable[[Part], Weights], read: Callable[..., Weights]
) -> Weights:
    """Name the weights of ``part``, and refuse unless diffusers reads every one of them back."""
    expected = {_short(name): weight for name, weight in part.state_dict().items()}
    try:
        named = write(part)
        found = {_short(name): weight for name, weight in read(dict(named)).items()}
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError):
        named, found = {}, {}
    if found.keys() != expected.keys() or not all(
        torch.equal(found[name], weight) for name, weight in expected.items()
    ):
        raise ModelError(
            f"found a {type(part).__name__} that the published layout of Stable Diffusion cannot "
            "hold; expected one of 1.x, 2.x or XL; export to diffusers, comfyui or a1111"
        )
    return named


def _unet(unet: Part) -> Weights:
    """Number the blocks through, as they were published."""
    tables, weights = DIFFUSERS_TO_LDM_MAPPING["unet"], unet.state_dict()
    fixed = {old: new for table in tables.values() for old, new in table.items()}
    count, named = unet.config.layers_per_block, {}
    for name, weight in weights.items():
        block = _BLOCK.fullmatch(name)
        named[UNET + (_place(block, count, weights) if block else fixed.get(name, name))] = weight
    return named


def _place(block: re.Match[str], count: int, weights: Mapping[str, Tensor]) -> str:
    """Name a weight of a block whose side has ``count`` layers, and one more in the middle."""
    side, number, kind, layer, rest = block.groups()
    at = int(number or 0) * (count + 1) + int(layer)
    if kind == "resnets":
        part, _, end = rest.partition(".")
        rest = f"{_RESNET.get(part, part)}.{end}"
    column = int(kind == "attentions")
    if kind == "downsamplers":
        return f"input_blocks.{at + count + 1}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = any(name.startswith(f"up_blocks.{number}.attentions") for name in weights)
        return f"output_blocks.{at + count}.{1 + attends}.{rest}"
    if side == "mid":
        return f"middle_block.{2 * int(layer) + column}.{rest}"
    return (
        f"{'input' if side == 'down' else 'output'}_blocks.{at + (side == 'down')}.{column}.{rest}"
    )


def _vae(vae: Part) -> Weights:
    """Count the decoder's blocks from the end, and write attention as convolutions."""
    last, named = len(vae.config.up_block_types) - 1, {}
    for name, weight in vae.state_dict().items():
        name = re.sub(r"up_blocks\.(\d+)", lambda n: f"up_blocks.{last - int(n[1])}", name)
        flat = "attentions" in name and weight.ndim == 2
        for old, new in _VAE.items():
            name = name.replace(old, new)
        named[VAE + name] = weight[:, :, None, None] if flat else weight
    return named


def _clip(encoder: Part, place: str) -> Weights:
    """Keep the names of transformers, of any of its versions."""
    weights = encoder.state_dict().items()
    return {f"{place}transformer.text_model.{_short(name)}": weight for name, weight in weights}


def _open_clip(encoder: Part, place: str) -> Weights:
    """Name a text encoder as OpenCLIP does."""
    place, tables = f"{place}model.", DIFFUSERS_TO_LDM_MAPPING["openclip"]

    def write(encoder: Part) -> Weights:
        weights, named = {_short(name): w for name, w in encoder.state_dict().items()}, {}
        for name, weight in weights.items():
            whole = name if name == "text_projection.weight" else f"text_model.{name}"
            key = tables["layers"].get(whole)
            if key is None:
                for old, new in tables["transformer"].items():
                    whole = whole.replace(old, new)
                key = f"transformer.{whole}"
            if "q_proj" in key:  # published as one matrix
                weight = torch.cat([weights[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
                key = key.replace("q_proj.", "in_proj_")
            if "k_proj" not in key and "v_proj" not in key:
                named[place + key] = weight.T if key == "text_projection" else weight
        return named

    return _checked(encoder, write, partial(convert_open_clip_checkpoint, encoder, prefix=place))


def _short(name: str) -> str:
    """Drop the prefix that some versions of transformers write."""
    return name.removeprefix("text_model.")
