"""Stage 1: a KL autoencoder of factor 16, 128 px pictures to 8 x 8 latents (AutoencoderKL).

Its two convolutions around the latents are rewritten at the end so that every latent channel has
mean 0 and deviation 1: no other scaling is left for the pipeline to do.
"""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.loop import Recipe

RECIPE = Recipe(steps=6_000, batch=4, rate=1e-3, warmup=100, cooldown=0.4, average=0.998)
CHANNELS = 32
WIDTHS = (16, 32, 64, 96, 96)
DECODER = Recipe(steps=700, batch=4, rate=4e-4, matrix_rate=3e-3, average=0.99)
KL_WEIGHT = 1e-6  # 2e-5 empties half of the channels
START_LOG_VARIANCE = -6.0  # posteriors of unit deviation would drown a latent before it is learnt


def build(widths: tuple[int, ...] = WIDTHS, channels: int = CHANNELS) -> AutoencoderKL:
    """Return the untrained autoencoder."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=8 * 2 ** (len(widths) - 1),
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        vae.quant_conv.weight[channels:] *= 0.1
        vae.quant_conv.bias[channels:] = START_LOG_VARIANCE
    return vae.to(memory_format=torch.channels_last)


def hues(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
    """Return the opponent colours red - green and blue - (red + green) / 2."""
    red, green, blue = pixels.unbind(1)
    return torch.stack([red - green, blue - (red + green) / 2], 1)


def difference(found: Float[Tensor, "n 3 h w"], pixels: Float[Tensor, "n 3 h w"]) -> Tensor:
    """Compare pictures in [-1, 1]: values, edges, colours of 4 x 4 pixels, hues of 2 x 2."""
    error = found - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    rough = F.avg_pool2d(error, 4).abs().mean()
    hue = hues(F.avg_pool2d(error, 2)).abs().mean()
    return error.abs().mean() + edges + 2 * rough + hue


def loss(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h w"], noise: Tensor) -> Tensor:
    """Reconstruct through a sampled posterior; add the KL to the unit normal."""
    with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
        posterior = vae.encode(pixels).latent_dist
        found = vae.decode(posterior.mean + posterior.std * noise).sample
    return difference(found.float(), pixels) + KL_WEIGHT * posterior.kl().mean()


def decoder_of(vae: AutoencoderKL) -> nn.ModuleDict:
    """Name the parts that come after the latents: the decoder stage trains these alone."""
    return nn.ModuleDict({"post": vae.post_quant_conv, "decoder": vae.decoder})


def decoder_loss(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h w"], latents: Tensor) -> Tensor:
    """Reconstruct from given latents, exact ones or a U-Net's."""
    with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
        found = vae.decode(latents).sample  # pyright: ignore
    return difference(found.float(), pixels)


@torch.no_grad()
def error(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h w"], latents: Tensor) -> float:
    """Return the mean absolute error of decoded latents, of 255."""
    parts = zip(pixels.split(50), latents.split(50), strict=True)
    found = [(vae.decode(z).sample.clamp(-1, 1) - x).abs().mean().item() for x, z in parts]  # pyright: ignore
    return round(127.5 * sum(found) / len(found), 3)


@torch.no_grad()
def normalise(vae: AutoencoderKL, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
    """Fold mean and deviation of the latent channels into the convolutions around them."""
    count = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:count] /= std[:, None, None, None]
    quant.bias[:count] = (quant.bias[:count] - mean) / std
    quant.bias[count:] -= 2 * std.log()  # log-variances
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
