"""The noise a model was trained with, and what it was trained to predict.

Both are rebuilt from the scheduler's configuration, because samplers scale their noise in other
ways. Of each kind of prediction we keep its own squared error: Eq. 1 with one particular omega_t.
"""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from cones.errors import ModelError
from cones.models.protocol import Latents, Part, Times

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")
WEIGHTINGS = ("uniform", "min-snr")
SNR_CAP = 5.0  # gamma of Min-SNR


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Mix pictures and noise as in training, ``x_t = alpha_t x + sigma_t eps`` (Sec. 2).

    Attributes:
        prediction: One of ``PREDICTIONS``.
        alpha: Share of the picture at every integer timestep.
        sigma: Share of the noise at every integer timestep.
    """

    prediction: str
    alpha: Float[Tensor, " steps"]
    sigma: Float[Tensor, " steps"]

    @classmethod
    def of(cls, scheduler: ConfigMixin) -> "NoiseSchedule":
        """Rebuild the training process from the configuration of any sampler.

        Raises:
            ModelError: The sampler belongs to a family that is not known here.
        """
        config = dict(scheduler.config)
        if _is_flow(scheduler, config):
            steps = config["num_train_timesteps"]
            shift = config.get("flow_shift", config.get("shift")) or 1.0
            linear = torch.arange(1, steps + 1, dtype=torch.float64) / steps
            sigma = (shift * linear / (1 + (shift - 1) * linear)).float()
            return cls("flow", 1 - sigma, sigma)
        prediction = config.get("prediction_type", "epsilon")
        if "beta_schedule" not in config or prediction not in PREDICTIONS[:3]:
            raise ModelError(
                f"found a {type(scheduler).__name__} predicting {prediction!r}; expected one of "
                f"{', '.join(PREDICTIONS)} with a beta or flow schedule; set such a scheduler"
            )
        ddpm: Part = DDPMScheduler.from_config(config)
        kept = ddpm.alphas_cumprod
        return cls(prediction, kept**0.5, (1 - kept) ** 0.5)

    def timesteps(self, count: int, generator: torch.Generator) -> Times:
        """Draw timesteps, one from each of ``count`` equal parts of training, shuffled."""
        steps = len(self.sigma)
        inside = torch.rand(count, generator=generator, dtype=torch.float64)
        spread = (torch.arange(count) + inside) / max(count, 1) * steps
        return spread.long().clamp(max=steps - 1)[torch.randperm(count, generator=generator)]

    def noised(self, latents: Latents, noise: Latents, timesteps: Times) -> Latents:
        """Noise the latents (what ``DDPMScheduler.add_noise`` does)."""
        alpha, sigma = self._at(timesteps, latents)
        return alpha * latents + sigma * noise  # x_t of Eq. 1

    def told(self, timesteps: Times) -> Tensor:
        """Give the time as the model is told it (flow models hear ``1000 sigma``)."""
        if self.prediction != "flow":
            return timesteps
        return self.sigma.to(timesteps.device)[timesteps] * len(self.sigma)

    def target(self, latents: Latents, noise: Latents, timesteps: Times) -> Latents:
        """Give what the model should predict: ``eps``, ``a eps - s x``, ``x`` or ``eps - x``."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return latents
        if self.prediction == "flow":
            return noise - latents
        alpha, sigma = self._at(timesteps, latents)
        return alpha * noise - sigma * latents

    def weights(self, timesteps: Times, weighting: str) -> Float[Tensor, " n"]:
        """Weight the model's own squared error (``omega_t`` of Eq. 1).

        ``uniform`` is 1. ``min-snr`` counts the error in x as ``min(SNR, 5)``, whatever is
        predicted.

        Raises:
            ModelError: Unknown weighting.
        """
        if weighting not in WEIGHTINGS:
            raise ModelError(
                f"found weighting {weighting!r}; expected one of {', '.join(WEIGHTINGS)}; "
                "choose one of these"
            )
        if weighting == "uniform":
            return torch.ones(len(timesteps), device=timesteps.device)
        alpha, sigma = (t.to(timesteps.device)[timesteps] for t in (self.alpha, self.sigma))
        snr = (alpha / sigma) ** 2
        if self.prediction == "epsilon":  # finite also where the signal is gone
            return (SNR_CAP / snr).clamp(max=1)
        capped = snr.clamp(max=SNR_CAP)
        return capped if self.prediction == "sample" else capped * sigma**2

    def _at(self, timesteps: Times, like: Latents) -> tuple[Tensor, Tensor]:
        at = timesteps.to(like.device)
        alpha, sigma = (
            share.to(like)[at].reshape(-1, 1, 1, 1) for share in (self.alpha, self.sigma)
        )
        return alpha, sigma


def _is_flow(scheduler: ConfigMixin, config: dict[str, object]) -> bool:
    named = config.get("prediction_type") == "flow_prediction"
    return named or bool(config.get("use_flow_sigmas")) or "FlowMatch" in type(scheduler).__name__
