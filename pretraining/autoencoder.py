"""Stage 1: a KL autoencoder of factor 16, 128 px pictures to 8 x 8 latents (AutoencoderKL).

Its two convolutions around the latents are rewritten at the end so that every latent channel has
mean 0 and deviation 1: no other scaling is left for the pipeline to do.
"""

import math

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.loop import Recipe

RECIPE = Recipe(steps=6_000, batch=4, rate=1e-3, warmup=100, cooldown=0.5, average=0.998)
INSIDE = 3.0  # weight of the pixels of things, of 1 for the others
CHANNELS = 32
WIDTHS = (16, 32, 64, 96, 96)
DECODER = Recipe(steps=700, batch=4, rate=4e-4, matrix_rate=3e-3, average=0.99)
NOISE = 0.05  # deviation of the posterior


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
    with torch.no_grad():  # a posterior of one deviation; nothing trains it
        vae.quant_conv.weight[channels:] = 0.0
        vae.quant_conv.bias[channels:] = 2 * math.log(NOISE)
    return vae.to(memory_format=torch.channels_last)


def opponents(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Return brightness, red - green and blue - yellow, each with a deviation of about 1."""
    red, green, blue = pixels.unbind(1)
    return torch.stack([(red + green + blue) / 1.5, 3 * (red - green), 2 * blue - red - green], 1)


def difference(
    found: Float[Tensor, "n 3 h w"],
    pixels: Float[Tensor, "n 3 h w"],
    weight: Float[Tensor, "n 1 h w"] | None = None,
) -> Tensor:
    """Compare pictures in [-1, 1]: values, edges, colours of 4 x 4 pixels, hues.

    Hues are compared by squares: a gray background has as many pixels as a purple cup, and by
    absolute values the cup would come back gray for thousands of steps.

    Args:
        found: What was decoded.
        pixels: What should have been.
        weight: Of every pixel, 1 in the mean.
    """
    weight = torch.ones_like(pixels[:, :1]) if weight is None else weight
    error = found - pixels
    edges = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    edges = edges + (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    rough = (F.avg_pool2d(weight, 4) * F.avg_pool2d(error, 4).abs()).mean()
    hue = sum(
        (F.avg_pool2d(weight, size) * opponents(F.avg_pool2d(error, size))[:, 1:].square()).mean()
        for size in (2, 8)
    )
    return (weight * error.abs()).mean() + edges + 2 * rough + 0.5 * hue


def rough_of(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 12 y x"]:
    """Return the mean opponent colours of the quarters of every 16 x 16 pixels."""
    return F.pixel_unshuffle(opponents(F.avg_pool2d(pixels, 8)), 2)


def loss(
    vae: AutoencoderKL,
    pixels: Float[Tensor, "n 3 h w"],
    weight: Float[Tensor, "n 1 h w"],
    noise: Tensor,
) -> Tensor:
    """Reconstruct from slightly noised latents, twelve channels of which are plain colours.

    Told so, no channel of these dies and hues are right early. There is no KL: Muon blows the
    small gradients of a small KL up until a third of the channels is nothing but noise.
    """
    with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
        mean = vae.encode(pixels).latent_dist.mean  # pyright: ignore
        found = vae.decode(mean + NOISE * noise).sample  # pyright: ignore
    rough = (mean[:, :12].float() - rough_of(pixels)).square()
    rough = (F.avg_pool2d(weight, 16) * rough).mean()
    return difference(found.float(), pixels, weight) + 0.5 * rough


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
