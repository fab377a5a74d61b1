"""Noise and targets against diffusers' own training scheduler and plain formulas."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from cones.errors import ModelError
from cones.models.noise import FlowSchedule, NoiseSchedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMES = torch.tensor([0, 10, 500, 999])


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 2, 3, 3, generator=draw) for _ in range(2))
    return latents, noise


@pytest.mark.parametrize(
    "sampler", [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler]
)
def test_training_noise_is_that_of_ddpm_whatever_samples(sampler: type) -> None:
    schedule = NoiseSchedule.of(sampler(**BETAS))
    expected = DDPMScheduler(**BETAS).add_noise(*drawn(), TIMES)
    torch.testing.assert_close(schedule.noised(*drawn(), TIMES), expected)


def test_targets_are_those_of_diffusers() -> None:
    latents, noise = drawn()
    for prediction, expected in (
        ("epsilon", noise),
        ("v_prediction", DDPMScheduler(**BETAS).get_velocity(latents, noise, TIMES)),
    ):
        schedule = NoiseSchedule.of(DDIMScheduler(**BETAS, prediction_type=prediction))
        torch.testing.assert_close(schedule.target(latents, noise, TIMES), expected)


def test_timesteps_come_from_equal_parts_in_random_order() -> None:
    schedule = NoiseSchedule.of(DDIMScheduler(**BETAS))
    times = schedule.timesteps(10, torch.Generator().manual_seed(0))
    assert sorted((times // 100).tolist()) == list(range(10))
    assert times.tolist() != sorted(times.tolist())
    assert torch.equal(times, schedule.timesteps(10, torch.Generator().manual_seed(0)))
    short = NoiseSchedule.of(DDIMScheduler(**BETAS, num_train_timesteps=7))
    assert int(short.timesteps(500, torch.Generator().manual_seed(1)).max()) == 6


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_counts_the_error_in_the_picture_alike(prediction: str) -> None:
    """The error in x of a wrong prediction, weighted by min(SNR, 5), whatever is predicted."""
    schedule = NoiseSchedule.of(DDIMScheduler(**BETAS, prediction_type=prediction))
    latents, noise = (each.double() for each in drawn())
    noised = schedule.noised(latents, noise, TIMES)
    kept = DDPMScheduler(**BETAS).alphas_cumprod.double()[TIMES].view(-1, 1, 1, 1)
    a, s = kept.sqrt(), (1 - kept).sqrt()
    right = schedule.target(latents, noise, TIMES)
    wrong = right + 0.1
    pictures = {
        "epsilon": (noised - s * wrong) / a,
        "v_prediction": a * noised - s * wrong,
    }
    error = (pictures[prediction] - latents).square().mean((1, 2, 3))
    expected = (a / s).square().clamp(max=5).flatten() * error
    found = schedule.weights(TIMES, "min-snr") * (wrong - right).square().mean((1, 2, 3))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(schedule.weights(TIMES, "uniform"), torch.ones(4))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_that_of_diffusers(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = FlowSchedule.of(scheduler)
    expected = scheduler.timesteps.flip(0)
    torch.testing.assert_close(schedule.sigmas(torch.arange(1000)) * 1000, expected)
    latents, noise = drawn()
    scaled = scheduler.scale_noise(latents, expected[TIMES], noise)
    torch.testing.assert_close(schedule.noised(latents, noise, TIMES), scaled)
    assert torch.equal(schedule.target(latents, noise, TIMES), noise - latents)
    times = schedule.timesteps(10, torch.Generator().manual_seed(0))
    assert sorted((times // 100).tolist()) == list(range(10))


def test_flow_matching_reads_any_sampler() -> None:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    sana = DPMSolverMultistepScheduler(**flow, flow_shift=3.0)
    assert FlowSchedule.of(sana) == FlowSchedule(1000, 3.0)
    dynamic = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert FlowSchedule.of(dynamic) == FlowSchedule(1000, 1.0)
    for other in (DDIMScheduler(**BETAS), DPMSolverMultistepScheduler(flow_shift=3.0)):
        with pytest.raises(ModelError, match="expected a sampler for flow matching"):
            FlowSchedule.of(other)


def test_min_snr_of_flow_matching_counts_the_error_in_the_picture() -> None:
    schedule = FlowSchedule(1000, 3.0)
    latents, noise = (each.double() for each in drawn())
    noised, right = (f(latents, noise, TIMES) for f in (schedule.noised, schedule.target))
    s = schedule.sigmas(TIMES).double().view(-1, 1, 1, 1)
    error = (noised - s * (right + 0.1) - latents).square().mean((1, 2, 3))
    expected = ((1 - s) / s).square().clamp(max=5).flatten() * error
    found = schedule.weights(TIMES, "min-snr") * 0.1**2
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)
    assert torch.equal(schedule.weights(TIMES, "uniform"), torch.ones(4))


def test_says_what_it_does_not_know() -> None:
    with pytest.raises(ModelError, match="predicting 'score'; expected one of epsilon"):
        NoiseSchedule.of(DDIMScheduler(**BETAS).from_config({**BETAS, "prediction_type": "score"}))
    with pytest.raises(ModelError, match="FlowMatchEuler.* beta schedule; .*not a flow-matching"):
        NoiseSchedule.of(FlowMatchEulerDiscreteScheduler())
