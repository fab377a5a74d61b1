"""The noise a model was trained with, and what it was trained to predict.

For diffusion both come from diffusers' training scheduler, built from the configuration of
whatever sampler the pipeline has, because samplers scale their noise in other ways. The error of a
model is that of its own prediction: Eq. 1 with one particular omega_t.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from cones.errors import ModelError
from cones.models.types import Latents, Part, Times

PREDICTIONS = ("epsilon", "v_prediction")
SNR_CAP = 5.0  # gamma of Min-SNR


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Mix pictures and noise as in training, ``x_t = alpha_t x + sigma_t eps`` (Sec. 2)."""

    training: Part  # the DDPMScheduler; its prediction_type is one of PREDICTIONS

    @classmethod
    def of(cls, scheduler: ConfigMixin) -> "NoiseSchedule":
        """Rebuild the training process from the configuration of any sampler for diffusion."""
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
        return _spread(count, self.training.config.num_train_timesteps, generator)

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


@dataclass(frozen=True)
class FlowSchedule:
    """Mix pictures and noise as flow matching does, ``x_t = (1 - sigma) x + sigma eps``.

    Timesteps count from 0, the least noise. They are spread evenly over the sigmas that sampling
    goes through; the density of training itself, which models do not tell, may differ.
    """

    steps: int  # of training
    shift: float = 1.0  # how much more of them are noisy; 1 is even

    @classmethod
    def of(cls, scheduler: ConfigMixin) -> "FlowSchedule":
        """Read the configuration of any sampler for flow matching.

        A shift that depends on the size of the picture is left out, as in training.
        """
        config = dict(scheduler.config)
        prediction = config.get("prediction_type", "flow_prediction")
        if prediction != "flow_prediction" or not {"shift", "flow_shift"} & config.keys():
            raise ModelError(
                f"found a {type(scheduler).__name__} predicting {prediction!r}; expected a "
                "sampler for flow matching, such as FlowMatchEulerDiscreteScheduler; put back the "
                "model's own"
            )
        shift = config.get("shift") or config.get("flow_shift") or 1.0
        dynamic = config.get("use_dynamic_shifting")
        return cls(config["num_train_timesteps"], 1.0 if dynamic else float(shift))

    def timesteps(self, count: int, generator: torch.Generator) -> Times:
        """Draw timesteps, one from each of ``count`` equal parts of training, shuffled."""
        return _spread(count, self.steps, generator)

    def sigmas(self, timesteps: Times) -> Float[Tensor, " n"]:
        """Give the share of noise, above 0 and up to 1."""
        even = (timesteps + 1) / self.steps
        return self.shift * even / (1 + (self.shift - 1) * even)

    def noised(self, latents: Latents, noise: Latents, timesteps: Times) -> Latents:
        """Noise the latents."""
        sigma = self.sigmas(timesteps).to(latents)[:, None, None, None]
        return (1 - sigma) * latents + sigma * noise  # x_t of Eq. 1

    def target(self, latents: Latents, noise: Latents, timesteps: Times) -> Latents:
        """Give what the model should predict, ``eps - x``."""
        return noise - latents

    def weights(self, timesteps: Times, weighting: str) -> Float[Tensor, " n"]:
        """Weight the model's own squared error; see :meth:`NoiseSchedule.weights`."""
        if weighting == "uniform":
            return torch.ones(len(timesteps), device=timesteps.device)
        sigma = self.sigmas(timesteps)
        return ((1 - sigma) / sigma).square().clamp(max=SNR_CAP) * sigma.square()


Schedule: TypeAlias = NoiseSchedule | FlowSchedule


def _spread(count: int, steps: int, generator: torch.Generator) -> Times:
    inside = torch.rand(count, generator=generator, dtype=torch.float64)
    spread = (torch.arange(count) + inside) / max(count, 1) * steps
    return spread.long().clamp(max=steps - 1)[torch.randperm(count, generator=generator)]
