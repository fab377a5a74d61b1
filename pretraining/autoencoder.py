"""A KL autoencoder of factor 16: 128 px pictures to 8 x 8 latents (AutoencoderKL).

Twelve latent channels are told to be plain colours, so that none of them dies and hues are right
early. There is no KL: Muon blows the small gradients of a small KL up until a third of the
channels is nothing but noise. At the end the convolutions around the latents are rewritten so
that every channel has mean 0 and deviation 1: no other scaling is left for the pipeline to do.
"""

import json
import math

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cones.files import write_atomic
from pretraining.loop import NETWORKS, Stage, Work, averaged, in_turn

INSIDE = 3.0  # weight of the pixels of things, of 1 for the others
CHANNELS = NETWORKS["vae"]["latent_channels"]
NOISE = 0.05  # deviation of the posterior


def build() -> AutoencoderKL:
    """Return the untrained autoencoder; its posterior has one deviation that nothing trains."""
    vae = AutoencoderKL(**NETWORKS["vae"])
    with torch.no_grad():
        vae.quant_conv.weight[CHANNELS:] = 0.0
        vae.quant_conv.bias[CHANNELS:] = 2 * math.log(NOISE)
    return vae.to(memory_format=torch.channels_last)


def opponents(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Return brightness, red - green and blue - yellow, each with a deviation of about 1."""
    red, green, blue = pixels.unbind(1)
    return torch.stack([(red + green + blue) / 1.5, 3 * (red - green), 2 * blue - red - green], 1)


def difference(
    found: Float[Tensor, "n 3 h w"],
    pixels: Float[Tensor, "n 3 h w"],
    weight: Float[Tensor, "n 1 h w"],
) -> Tensor:
    """Compare pictures in [-1, 1]: values, edges, colours of 4 x 4 pixels, hues.

    ``weight`` is that of every pixel, 1 in the mean. Hues are compared by squares: a gray
    background has as many pixels as a purple cup, and by absolute values the cup would come back
    gray for thousands of steps.
    """
    error = found - pixels
    edges = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    edges = edges + (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    rough = (F.avg_pool2d(weight, 4) * F.avg_pool2d(error, 4).abs()).mean()
    hue = sum(
        (F.avg_pool2d(weight, size) * opponents(F.avg_pool2d(error, size))[:, 1:].square()).mean()
        for size in (2, 8)
    )
    return (weight * error.abs()).mean() + edges + 2 * rough + 0.5 * hue


class Autoencoder(Stage[AutoencoderKL]):
    """Reconstructs pictures and their mirror images from slightly noised latents."""

    def _build(self) -> AutoencoderKL:
        return build()

    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        """Compare what comes back, and twelve channels with the colours of 8 x 8 pixels."""
        pixels, weight = self.work.pixels(index), self._weight(index)
        if torch.rand((), generator=draw) < 0.5:
            pixels, weight = pixels.flip(-1), weight.flip(-1)
        noise = torch.randn(len(index), CHANNELS, 8, 8, generator=draw).to(pixels.device)
        with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
            mean = self.module.encode(pixels).latent_dist.mean
            found = self.module.decode(mean + NOISE * noise).sample
        plain = F.pixel_unshuffle(opponents(F.avg_pool2d(pixels, 8)), 2)
        rough = F.avg_pool2d(weight, 16) * (mean[:, :12].float() - plain).square()
        return difference(found.float(), pixels, weight) + 0.5 * rough.mean()

    def _weight(self, index: Tensor) -> Float[Tensor, "n 1 h w"]:
        """Return how much every pixel counts: more inside the boxes of things, 1 in the mean."""
        found = torch.ones(len(index), 1, 128, 128)
        for weight, i in zip(found, index.tolist(), strict=True):
            for x0, y0, x1, y1 in (t["box"] for t in self.work.pictures.rows[i]["things"]):
                weight[:, y0:y1, x0:x1] = INSIDE
        return (found / found.mean((1, 2, 3), keepdim=True)).to(self.work.device)


def encoded(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c y x"]:
    """Return the posterior means."""
    with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
        return vae.encode(pixels).latent_dist.mean.float()


def decoded(vae: AutoencoderKL, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 3 h w"]:
    """Return pictures in [-1, 1]."""
    with torch.autocast(latents.device.type, torch.bfloat16, cache_enabled=False):
        return vae.decode(latents).sample.float().clamp(-1, 1)


def decoder_of(vae: AutoencoderKL) -> nn.ModuleDict:
    """Name the parts that come after the latents: the decoder stage trains these alone."""
    return nn.ModuleDict({"post": vae.post_quant_conv, "decoder": vae.decoder})


@torch.no_grad()
def normalise(vae: AutoencoderKL, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> None:
    """Fold mean and deviation of the latent channels into the convolutions around them."""
    count, quant, post = len(mean), vae.quant_conv, vae.post_quant_conv
    quant.weight[:count] /= std[:, None, None, None]
    quant.bias[:count] = (quant.bias[:count] - mean) / std
    quant.bias[count:] -= 2 * std.log()  # log-variances
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


def finished(work: Work, *, decoder: bool = True) -> AutoencoderKL:
    """Return the trained autoencoder, normalised, with the later decoder where there is one."""
    vae = averaged(build().to(work.device), work.folder / "autoencoder")
    told = work.folder / "latents.json"
    if not told.exists():
        some = torch.arange(min(1_000, len(work.pictures)))
        latents = in_turn(lambda index: encoded(vae, work.pixels(index)), some)
        spread = {"mean": latents.mean((0, 2, 3)), "std": latents.std((0, 2, 3))}
        write_atomic(told, json.dumps({k: v.tolist() for k, v in spread.items()}).encode())
    spread = json.loads(told.read_text())
    mean, std = torch.tensor([spread["mean"], spread["std"]], device=work.device)
    normalise(vae, mean, std)
    if decoder and (work.folder / "decoder" / "state.safetensors").exists():
        averaged(decoder_of(vae), work.folder / "decoder")
    return vae


def latents(work: Work) -> Float[Tensor, "n c y x"]:
    """Encode every picture, once."""
    vae = finished(work)
    every = torch.arange(len(work.pictures))
    return work.cached("latents", lambda index: encoded(vae, work.pixels(index)), every)
