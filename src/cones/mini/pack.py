"""Pack the trained stages as an ordinary diffusers folder (fp16 safetensors), plus the CLIP.

``StableDiffusionPipeline.from_pretrained(folder)`` loads the result; ``folder/clip`` holds the
whole CLIP for evaluation. The folder is built beside its place and renamed at the end.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPTextModel

from cones.mini import autoencoder, clip, denoiser
from cones.mini.card import card
from cones.mini.data import SIZE
from cones.mini.training import Run

ATTRIBUTION = "ATTRIBUTION.csv"


def _decoder(vae, work: Path) -> None:
    """Take over the sharpened decoder where stage 4 has run."""
    if not (work / "decoder" / "state.safetensors").exists():
        return
    parts = torch.nn.ModuleDict({"decoder": vae.decoder, "post": vae.post_quant_conv})
    Run(parts, autoencoder.DECODER, work / "decoder").use_average()


def _text_encoder(whole) -> CLIPTextModel:
    """Lift the text tower out of the CLIP."""
    encoder = CLIPTextModel(whole.config.text_config)
    encoder.load_state_dict(
        {n.removeprefix("text_model."): w for n, w in whole.text_model.state_dict().items()}
    )
    return encoder


def pipeline_of(work: Path, tokenizer) -> tuple[StableDiffusionPipeline, torch.nn.Module]:
    """Assemble the pipeline from a work folder's checkpoints (averaged weights), and the CLIP."""
    whole = Run(clip.build(tokenizer), clip.RECIPE, work / "clip").use_average()
    vae = Run(autoencoder.build(), autoencoder.RECIPE, work / "autoencoder").use_average()
    _decoder(vae, work)
    spread = json.loads((work / "latents.json").read_text())["scaling_factor"]
    vae.register_to_config(scaling_factor=spread)
    unet = Run(denoiser.build(), denoiser.RECIPE, work / "denoiser").use_average()
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=_text_encoder(whole).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_config(denoiser.scheduler().config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, whole


def pack(work: Path, tokenizer, out: Path) -> None:
    """Write the model folder.

    Args:
        work: The pretraining folder with a checkpoint of every stage.
        tokenizer: The tokenizer the stages were trained with.
        out: Where the model goes; an older one there is replaced at the end.
    """
    pipeline, whole = pipeline_of(work, tokenizer)
    fresh = out.with_name(out.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(fresh)
    whole.half().save_pretrained(fresh / "clip")
    tokenizer.save_pretrained(fresh / "clip")
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size=SIZE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(fresh / "clip")
    if (out / ATTRIBUTION).exists():
        shutil.copy(out / ATTRIBUTION, fresh / ATTRIBUTION)
    (fresh / "README.md").write_text(card(work, fresh))
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
