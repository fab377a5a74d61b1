"""The noise a model was trained with, and what it was trained to predict.

Both come from diffusers' training scheduler, built from the configuration of whatever sampler the
pipeline has, because samplers scale their noise in other ways. The error of a model is that of its
own prediction: Eq. 1 with one particular omega_t. Flow matching is not known here.
"""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from cones.errors import ModelError
from cones.models.protocol import Latents, Part, Times

PREDICTIONS = ("epsilon", "v_prediction")
SNR_CAP = 5.0  # gamma of Min-SNR


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Mix pictures and noise as in training, ``x_t = alpha_t x + sigma_t eps`` (Sec. 2).

    Attributes:
        training: The ``DDPMScheduler``; its ``prediction_type`` is one of ``PREDICTIONS``.
    """

    training: Part

    @classmethod
    def of(cls, scheduler: ConfigMixin) -> "NoiseSchedule":
        """Rebuild the training process from the configuration of any sampler.

        Raises:
            ModelError: The sampler belongs to a family that is not known here.
        """
        config = dict(scheduler.config)
        prediction = config.get("prediction_type", "epsilon")
        if "beta_schedule" not in config or prediction not in PREDICTIONS:
            raise ModelError(
                f"found a {type(scheduler).__name__} predicting {prediction!r}; expected one of "
                f"{', '.join(PREDICTIONS)} with a beta schedule; load Stable Diffusion 1.x, 2.x "
                "or XL, not a flow-matching model"
            )
        return cls(DDPMScheduler.from_config(config))

    def timesteps(self, count: int, generator: torch.Generator) -> Times:
        """Draw timesteps, one from each of ``count`` equal parts of training, shuffled."""
        steps = self.training.config.num_train_timesteps
        inside = torch.rand(count, generator=generator, dtype=torch.float64)
        spread = (torch.arange(count) + inside) / max(count, 1) * steps
        return spread.long().clamp(max=steps - 1)[torch.randperm(count, generator=generator)]

    def noised(self, latents: Latents, noise: Latents, timesteps: Times) -> Latents:
        """Noise the latents."""
        return self.training.add_noise(latents, noise, timesteps)  # x_t of Eq. 1

    def target(self, latents: Latents, noise: Latents, timesteps: Times) -> Latents:
        """Give what the model should predict: ``eps`` or ``alpha eps - sigma x``."""
        if self.training.config.prediction_type == "epsilon":
            return noise
        return self.training.get_velocity(latents, noise, timesteps)

    def weights(self, timesteps: Times, weighting: str) -> Float[Tensor, " n"]:
        """Weight the model's own squared error (``omega_t`` of Eq. 1).

        ``uniform`` is 1. ``min-snr`` counts the error in x as ``min(SNR, 5)``, whatever is
        predicted.
        """
        if weighting == "uniform":
            return torch.ones(len(timesteps), device=timesteps.device)
        kept = self.training.alphas_cumprod.to(timesteps.device)[timesteps]  # alpha_t squared
        snr = kept / (1 - kept)
        if self.training.config.prediction_type == "epsilon":
            return (SNR_CAP / snr).clamp(max=1)  # finite also where the signal is gone
        return snr.clamp(max=SNR_CAP) * (1 - kept)
