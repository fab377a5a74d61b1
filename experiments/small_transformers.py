"""Small random pipelines of the families that draw with a transformer.

As :mod:`experiments.small` does for those with a U-Net: 64 px, two blocks; T5 reads letters.
"""

import inspect
from collections.abc import Callable
from string import ascii_lowercase

import diffusers
import torch
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from cones.models.base import Part, Pipeline
from experiments.small import text_encoder, tokenizer, vae

TEXT, CLIP, INNER = 32, 16, 16  # widths of T5, of CLIP (two fit into T5's), and of the network
SIDE, CHANNELS = 8, 4  # of latents
LETTERS = f"{ascii_lowercase}0123456789*"
HEADS = {"num_attention_heads": 2, "attention_head_dim": INNER // 2, "num_layers": 2}
LATENTS = {"sample_size": SIDE, "in_channels": CHANNELS}


def stable_diffusion_3() -> Pipeline:
    """Build one like 3.5, where some layers have a second attention."""
    torch.manual_seed(0)
    shape = {"caption_projection_dim": INNER, "pooled_projection_dim": 2 * CLIP}
    shape |= {"joint_attention_dim": TEXT, "out_channels": CHANNELS, "pos_embed_max_size": SIDE}
    shape |= {"dual_attention_layers": (0,), "qk_norm": "rms_norm", **HEADS, **LATENTS}
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(**shape).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1),
        text_encoder=text_encoder(CLIP, "quick_gelu", CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(CLIP, "gelu", CLIPTextModelWithProjection),
        tokenizer_2=tokenizer(),
        text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(),
    )


def flux() -> Pipeline:
    """Build one like Flux.1-dev, which is told the guidance."""
    torch.manual_seed(0)
    shape = {"in_channels": 4 * CHANNELS, "num_single_layers": 1, "joint_attention_dim": TEXT}
    shape |= {"pooled_projection_dim": CLIP, "guidance_embeds": True, "axes_dims_rope": (2, 2, 4)}
    pipeline = diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(**HEADS, **shape).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(shift_factor=0.1),
        text_encoder=text_encoder(CLIP, "quick_gelu", CLIPTextModel),
        tokenizer=tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
    )
    pipeline.default_sample_size = SIDE  # no file says it
    return pipeline


def pixart() -> Pipeline:
    """Build one like PixArt-sigma."""
    torch.manual_seed(0)
    shape = {"out_channels": 2 * CHANNELS, "cross_attention_dim": INNER, "caption_channels": TEXT}
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(**HEADS, **LATENTS, **shape).eval(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=vae(),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )


def sana() -> Pipeline:
    """Build one like Sana 1.0."""
    torch.manual_seed(0)
    shape = {"out_channels": CHANNELS, "cross_attention_dim": INNER, "caption_channels": TEXT}
    shape |= {"num_cross_attention_heads": 2, "cross_attention_head_dim": INNER // 2}
    width, blocks, none = (8,) * 4, (1,) * 4, ((),) * 4
    sizes = {f"{half}_block_out_channels": width for half in ("encoder", "decoder")}
    sizes |= {f"{half}_layers_per_block": blocks for half in ("encoder", "decoder")}
    sizes |= {f"{half}_qkv_multiscales": none for half in ("encoder", "decoder")}
    text = {"hidden_size": TEXT, "intermediate_size": TEXT, "head_dim": TEXT // 2}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    said = _gemma_tokenizer()
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(**HEADS, **LATENTS, **shape).eval(),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=diffusers.AutoencoderDC(latent_channels=CHANNELS, **sizes, scaling_factor=0.5).eval(),
        text_encoder=Gemma2Model(Gemma2Config(vocab_size=len(said), **text)).eval(),
        tokenizer=said,
    )


TRANSFORMERS: dict[str, Callable[[], Pipeline]] = {
    "SD 3": stable_diffusion_3,
    "Flux": flux,
    "PixArt": pixart,
    "Sana": sana,
}


def _t5() -> Part:
    sizes = {"d_model": TEXT, "d_kv": 8, "d_ff": TEXT, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(_t5_tokenizer()), **sizes, feed_forward_proj="gated-gelu")
    return T5EncoderModel(config).eval()


def _gemma_tokenizer() -> Part:
    """Build one that knows the words of the instruction which Sana puts before every prompt."""
    entries = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS)
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    letters = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=2048)
    known = inspect.signature(diffusers.SanaPipeline.__call__).parameters
    instruction = "\n".join(known["complex_human_instruction"].default)
    texts = [instruction, " ".join(LETTERS)]
    return letters.train_new_from_iterator(texts, 600, show_progress=False)


def _t5_tokenizer() -> Part:
    entries = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    entries += [(letter, -5.0) for letter in LETTERS]
    return T5Tokenizer(vocab=entries, extra_ids=0, model_max_length=512)
