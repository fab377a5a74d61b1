"""A writer of checkpoint files that shares nothing with that of the library.

For networks as small as those of ``experiments.small``, under the names by which Stable Diffusion
was published.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cones.models.base import Part, Pipeline


def _table(text: str) -> dict[str, str]:
    """Read pairs of names: that of diffusers, and the published one."""
    return dict(pair.split("=") for pair in text.split())


# In the order in which they replace parts of a name.
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


def single_file(pipeline: Pipeline) -> dict[str, Tensor]:
    """Give all weights their published names."""
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
    return tensors


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
