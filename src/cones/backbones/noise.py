"""The forward process a model was trained with, and the target it was trained to predict.

Training noise never depends on the sampler a pipeline happens to hold: samplers scale their
noise in other ways, so the schedule is always rebuilt from the configuration. Of each kind of
prediction we keep its own squared error, which is Eq. 1 with one particular weight omega_t.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cones.errors import BackboneError

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")
WEIGHTINGS = ("uniform", "min-snr")
SNR_CAP = 5.0  # gamma of Min-SNR


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Mix pictures and noise as in training, ``x_t = alpha_t x + sigma_t eps`` (Sec. 2).

    Attributes:
        prediction: One of ``PREDICTIONS``.
        alpha: Share of the picture for every integer timestep.
        sigma: Share of the noise for every integer timestep.
        ddpm: The training scheduler itself, except for flow models, which have none.
    """

    prediction: str
    alpha: Float[Tensor, " steps"]
    sigma: Float[Tensor, " steps"]
    ddpm: Any = None

    @classmethod
    def of(cls, scheduler: Any) -> "NoiseSchedule":
        """Rebuild the training process from the configuration of any sampler.

        Raises:
            BackboneError: The sampler belongs to a family that is not known here.
        """
        config = dict(scheduler.config)
        if _is_flow(scheduler):
            return cls._flow(config)
        prediction = config.get("prediction_type", "epsilon")
        if "beta_schedule" not in config or prediction not in PREDICTIONS[:3]:
            raise BackboneError(
                f"found a {type(scheduler).__name__} predicting {prediction!r}; expected one of "
                f"{', '.join(PREDICTIONS)} with a beta or flow schedule; set such a scheduler"
            )
        from diffusers import DDPMScheduler

        ddpm = DDPMScheduler.from_config(config)
        kept = ddpm.alphas_cumprod
        return cls(prediction, kept**0.5, (1 - kept) ** 0.5, ddpm)

    @classmethod
    def _flow(cls, config: dict[str, Any]) -> "NoiseSchedule":
        steps = config["num_train_timesteps"]
        shift = config.get("flow_shift", config.get("shift", 1.0)) or 1.0
        linear = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        sigma = (shift * linear / (1 + (shift - 1) * linear)).float()
        return cls("flow", 1 - sigma, sigma)

    @property
    def steps(self) -> int:
        """Count the integer timesteps."""
        return len(self.sigma)

    def mix(
        self, latents: Float[Tensor, "n *s"], noise: Float[Tensor, "n *s"], timesteps: Tensor
    ) -> Float[Tensor, "n *s"]:
        """Noise the latents, ``x_t = alpha_t x + sigma_t eps`` (Sec. 2)."""
        if self.ddpm is not None:
            return self.ddpm.add_noise(latents, noise, timesteps)
        alpha, sigma = self._at(timesteps, latents)
        return alpha * latents + sigma * noise

    def times(self, timesteps: Int[Tensor, " n"]) -> Tensor:
        """Tell the time as the model is told it (flow models hear ``1000 sigma``)."""
        if self.prediction != "flow":
            return timesteps
        return self.sigma.to(timesteps.device)[timesteps] * self.steps

    def target(
        self, latents: Float[Tensor, "n *s"], noise: Float[Tensor, "n *s"], timesteps: Tensor
    ) -> Float[Tensor, "n *s"]:
        """Give what the model should predict: ``eps``, ``a eps - s x``, ``x`` or ``eps - x``."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return latents
        if self.prediction == "flow":
            return noise - latents
        alpha, sigma = self._at(timesteps, latents)
        return alpha * noise - sigma * latents

    def weights(self, timesteps: Int[Tensor, " n"], weighting: str) -> Float[Tensor, " n"]:
        """Weight the model's own squared error (``omega_t`` of Eq. 1).

        ``uniform`` is 1. ``min-snr`` counts the error in x as ``min(SNR, 5)``, whatever is
        predicted.

        Raises:
            BackboneError: Unknown weighting.
        """
        if weighting not in WEIGHTINGS:
            raise BackboneError(
                f"found weighting {weighting!r}; expected one of {', '.join(WEIGHTINGS)}; "
                "choose one of these"
            )
        if weighting == "uniform":
            return torch.ones(len(timesteps), device=timesteps.device)
        alpha = self.alpha.to(timesteps.device)[timesteps]
        sigma = self.sigma.to(timesteps.device)[timesteps]
        snr = (alpha / sigma) ** 2
        if self.prediction == "epsilon":  # finite also where the signal is gone
            return (SNR_CAP / snr).clamp(max=1)
        capped = snr.clamp(max=SNR_CAP)
        return capped if self.prediction == "sample" else capped * sigma**2

    def _at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (like.ndim - 1)
        return tuple(
            values.to(like.device)[timesteps].to(like.dtype).reshape(shape)
            for values in (self.alpha, self.sigma)
        )


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    named = config.get("prediction_type") == "flow_prediction"
    return named or bool(config.get("use_flow_sigmas")) or "FlowMatch" in type(scheduler).__name__
