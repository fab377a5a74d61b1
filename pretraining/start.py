"""Go on from a saved model: its autoencoder and text tower as they are, its U-Net trained on.

Only averaged weights are saved, no optimiser's moments, so the U-Net begins with a warm-up.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from pretraining import autoencoder, denoiser, text
from pretraining.loop import Recipe

SKIPPED = ("autoencoder", "text")  # stages that have nothing to do then


def _put(folder: Path, weights: dict[str, torch.Tensor], recipe: Recipe) -> None:
    """Write a checkpoint of step 0."""
    folder.mkdir(parents=True)
    tensors = {f"average/{name}": weight.float() for name, weight in weights.items()}
    tensors |= {f"weight/{name}": weight.float().clone() for name, weight in weights.items()}
    log = {"recipe": asdict(recipe), "step": 0, "losses": [], "samples": 0, "seconds": 0}
    save_file(tensors, folder / "state.safetensors", metadata={"log": json.dumps(log)})
    (folder / "log.json").write_text(json.dumps(log))


def unpack(model: Path, work: Path) -> None:
    """Put a saved model's parts where the stages look for their own checkpoints.

    Latents of a saved autoencoder have mean 0 and deviation 1 already; ``latents.json`` says so.
    """
    if (work / "denoiser").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    shutil.copytree(model / "tokenizer", work / "tokenizer")
    tower = load_file(model / "text_encoder" / "model.safetensors")
    reader = text.Reader(CLIPTokenizer.from_pretrained(work / "tokenizer")).state_dict()
    known = {f"tower.{name}": weight for name, weight in tower.items()}
    _put(work / "text", {**reader, **known}, text.RECIPE)
    vae = load_file(model / "vae" / "diffusion_pytorch_model.safetensors")
    _put(work / "autoencoder", vae, autoencoder.RECIPE)
    plain = {"mean": [0.0] * autoencoder.CHANNELS, "std": [1.0] * autoencoder.CHANNELS}
    (work / "latents.json").write_text(json.dumps(plain))
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    _put(work / "denoiser", unet, denoiser.RECIPE)
