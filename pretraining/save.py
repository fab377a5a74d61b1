"""Assemble the trained parts as a StableDiffusionPipeline and save it in one dtype.

``StableDiffusionPipeline.from_pretrained(folder)`` loads and runs the result as it stands.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import nn
from transformers import CLIPTokenizer

from pretraining import autoencoder, denoiser, text
from pretraining.loop import averaged

DTYPE = torch.bfloat16


def finished_autoencoder(work: Path) -> AutoencoderKL:
    """Return the autoencoder with normalised latents, and the later decoder where there is one."""
    vae = autoencoder.build()
    averaged(vae, work / "autoencoder")
    spread = json.loads((work / "latents.json").read_text())
    autoencoder.normalise(vae, torch.tensor(spread["mean"]), torch.tensor(spread["std"]))
    if (work / "decoder" / "state.safetensors").exists():
        averaged(autoencoder.decoder_of(vae), work / "decoder")
    return vae.requires_grad_(False).eval()


def finished_reader(work: Path) -> tuple[text.Reader, CLIPTokenizer]:
    """Return the trained text tower with its heads, and the tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    reader = text.Reader(tokenizer)
    averaged(reader, work / "text")
    text.fill_spare(reader, tokenizer)
    return reader, tokenizer


def assemble(work: Path, unet: nn.Module | None = None) -> StableDiffusionPipeline:
    """Put the trained parts together; ``unet`` replaces the averaged one of the work folder."""
    reader, tokenizer = finished_reader(work)
    if unet is None:
        unet = averaged(denoiser.build(), work / "denoiser")
    settings = dict(denoiser.scheduler().config)
    keep = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
    pipeline = StableDiffusionPipeline(
        vae=finished_autoencoder(work),
        text_encoder=reader.tower,
        tokenizer=tokenizer,
        unet=unet,  # pyright: ignore[reportArgumentType]
        scheduler=DPMSolverMultistepScheduler(**{key: settings[key] for key in keep}),  # pyright: ignore
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
