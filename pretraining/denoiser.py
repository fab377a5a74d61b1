"""Stage 4: the U-Net: wide on 8 x 8 and 4 x 4, self- and cross-attention on both; predicts v."""

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from torch import Tensor, nn

from pretraining.autoencoder import CHANNELS
from pretraining.loop import Recipe
from pretraining.text import WIDTH

RECIPE = Recipe(steps=2_500, batch=128, rate=8e-4, warmup=100, cooldown=0.25, average=0.999)
EMPTY = 0.1  # share of captions replaced by the empty one, for guidance
SEVERAL = 2.0  # pictures of several things are drawn so much more often: they are the hardest
WIDTHS = (128, 192)
MOST_NOISED = 300  # the time, of 1,000, up to which guesses serve the decoder stage


def scheduler() -> DDPMScheduler:
    """Return the noise schedule of Stable Diffusion, predicting v."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def build(
    widths: tuple[int, ...] = WIDTHS, heads: int = 4, depth: int = 1
) -> UNet2DConditionModel:
    """Return the untrained U-Net."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        cross_attention_dim=WIDTH,
        transformer_layers_per_block=depth,
        attention_head_dim=heads,  # the number of heads, in diffusers' old naming
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # on these small grids 1.5 x faster than SDPA
    return unet


def times_of(count: int, draw: torch.Generator) -> Tensor:
    """Draw times in [0, 1), one of each n-th part: the loss of a step varies less."""
    strata = torch.randperm(count, generator=draw) + torch.rand(count, generator=draw)
    return strata / count


def loss(
    unet: UNet2DConditionModel,
    schedule: DDPMScheduler,
    latents: Float[Tensor, "n c h w"],
    states: Float[Tensor, "n tokens width"],
    draw: torch.Generator,
) -> Tensor:
    """Predict v of noised latents from the captions' text states."""
    noise = torch.randn(latents.shape, generator=draw).to(latents.device)
    times = times_of(len(latents), draw) * schedule.config["num_train_timesteps"]
    times = times.long().to(latents.device)
    noised = schedule.add_noise(latents, noise, times)  # pyright: ignore
    target = schedule.get_velocity(latents, noise, times)  # pyright: ignore
    with torch.autocast(latents.device.type, torch.bfloat16, cache_enabled=False):
        inputs = noised.contiguous(memory_format=torch.channels_last)
        found = unet(inputs, times, states, return_dict=False)[0]
    return (found.float() - target).square().mean()


@torch.no_grad()
def guessed(
    unet: nn.Module,
    schedule: DDPMScheduler,
    latents: Float[Tensor, "n c h w"],
    states: Float[Tensor, "n tokens width"],
    draw: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Return clean latents as the U-Net guesses them in one step from somewhat noised ones."""
    noise = torch.randn(latents.shape, generator=draw).to(latents.device)
    times = torch.randint(MOST_NOISED, (len(latents),), generator=draw).to(latents.device)
    noised = schedule.add_noise(latents, noise, times)  # pyright: ignore
    with torch.autocast(latents.device.type, torch.bfloat16, cache_enabled=False):
        found = unet(noised, times, states, return_dict=False)[0].float()
    kept = schedule.alphas_cumprod.to(latents.device)[times][:, None, None, None]
    return kept.sqrt() * noised - (1 - kept).sqrt() * found  # x0 of v
