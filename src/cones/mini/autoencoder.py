"""Stage 2: the KL autoencoder, 64 px pictures to 8 x 8 latents of 24 channels (factor 8)."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from cones.mini.training import Recipe

RECIPE = Recipe(steps=7_500, batch=4, rate=1e-3, warmup=100, cooldown=0.4, average=0.998)
DECODER = Recipe(steps=3_000, batch=16, rate=4e-4, matrix_rate=3e-3, average=0.995)
CHANNELS = 24
ROUGH = 0.2  # noise on the latents that stage 4 decodes, in shares of their spread
KL_WEIGHT = 1e-6


def build() -> AutoencoderKL:
    """Return the untrained autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
    ).to(memory_format=torch.channels_last)


def decoder_of(model: AutoencoderKL) -> nn.ModuleDict:
    """Name the parts that stage 4 trains: all that comes after the latents."""
    return nn.ModuleDict({"decoder": model.decoder, "post": model.post_quant_conv})


def _edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels.diff(dim=-1), pixels.diff(dim=-2)


def reconstruction_loss(found: Tensor, pixels: Tensor) -> Tensor:
    """Compare pictures in [-1, 1] by value (L1 and L2) and by their edges (L1)."""
    edges = zip(_edges(found), _edges(pixels), strict=True)
    sharp = sum(F.l1_loss(a, b) for a, b in edges)
    return F.l1_loss(found, pixels) + 2 * F.mse_loss(found, pixels) + sharp


def loss(model: AutoencoderKL, pixels: Tensor, noise: Tensor) -> Tensor:
    """Reconstruct through the sampled posterior; add the KL to the unit normal."""
    with torch.autocast(pixels.device.type, torch.bfloat16):
        posterior = model.encode(pixels).latent_dist
        found = model.decode(posterior.mean + posterior.std * noise).sample
    return reconstruction_loss(found.float(), pixels) + KL_WEIGHT * posterior.kl().mean()


def decoder_loss(model: AutoencoderKL, pixels: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """Reconstruct from given latents: trains the decoder alone, latents stay as they are.

    Noise of unit spread makes them as inexact as those that a U-Net draws; a decoder that has
    seen only exact ones turns every error into a splinter.
    """
    latents = latents + ROUGH * latents.std() * noise
    with torch.autocast(pixels.device.type, torch.bfloat16):
        found = model.decode(latents).sample
    return reconstruction_loss(found.float(), pixels)
