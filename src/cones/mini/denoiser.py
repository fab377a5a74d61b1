"""Stage 3: the U-Net, self- and cross-attention on an 8 x 8 and a 4 x 4 grid, v-prediction."""

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from cones.mini.autoencoder import CHANNELS
from cones.mini.clip import WIDTH
from cones.mini.training import Recipe

RECIPE = Recipe(steps=16_400, batch=128, rate=8e-4, warmup=100, cooldown=0.2, average=0.997)
DROPOUT = 0.1  # share of captions replaced by the empty one, for guidance


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


def build() -> UNet2DConditionModel:
    """Return the untrained U-Net."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=3,  # the number of heads, in diffusers' old naming
        norm_num_groups=16,
    )


def loss(model, schedule: DDPMScheduler, latents: Tensor, states: Tensor, draw) -> Tensor:
    """Predict v of noised latents from text states ``(n, tokens, width)``.

    Times are stratified over the batch, which lowers the variance of a step.
    """
    count = len(latents)
    noise = torch.randn(latents.shape, generator=draw).to(latents.device)
    strata = (torch.arange(count) + torch.rand(count, generator=draw)) / count
    times = (strata * schedule.config.num_train_timesteps).long().to(latents.device)
    noised = schedule.add_noise(latents, noise, times)
    noised = noised.contiguous(memory_format=torch.channels_last)
    target = schedule.get_velocity(latents, noise, times)
    with torch.autocast(latents.device.type, torch.bfloat16):
        found = model(noised, times, states, return_dict=False)[0]
    return (found.float() - target).square().mean()
