"""Sites, latents, conditions and losses of Stable Diffusion, against diffusers itself."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cones.backbones import BACKBONES, Backbone, backbone_for, load_pipeline
from cones.backbones.noise import NoiseSchedule
from cones.errors import BackboneError
from conftest import make_scheduler, make_sd

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


@pytest.fixture(params=["sd1", "sd2", "sdxl"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Give every family in turn."""
    return backbone_for(request.getfixturevalue(request.param))


def batch_for(backbone: Backbone, generator: torch.Generator, count: int = 2) -> dict[str, Any]:
    """Draw what the loss takes besides the weights."""
    shape = (count, *backbone.latent_shape)
    return {
        "latents": torch.randn(shape, generator=generator),
        "noise": torch.randn(shape, generator=generator),
        "timesteps": torch.tensor([10, 700])[:count],
        "condition": backbone.condition(["a cat", "a dog on the grass"][:count]),
    }


def set_prediction(pipeline: Any, prediction: str) -> None:
    """Make a pipeline predict something else."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    flow = prediction == "flow"
    pipeline.scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0) if flow else make_scheduler(prediction)
    )


def test_sites_are_the_64_key_and_value_weights(sd1: Any) -> None:
    backbone = backbone_for(sd1)
    both, cross, own = (backbone.sites(scope) for scope in ("both", "cross", "self"))
    assert (len(both), len(cross), len(own)) == (64, 32, 32)
    assert set(cross) | set(own) == set(both)
    expected = [
        name
        for name, _ in sd1.unet.named_parameters()
        if re.search(r"\.attn[12]\.to_[kv]\.weight$", name)
    ]
    assert sorted(both) == sorted(expected)
    assert all(".attn2." in name for name in cross)
    assert all(".attn1." in name for name in own)


def test_weights_are_the_live_ones_of_the_scope(backbone: Backbone) -> None:
    live = dict(backbone.module.named_parameters())
    for scope in ("both", "cross", "self"):
        weights = backbone.weights(scope)
        assert tuple(weights) == backbone.sites(scope)
        assert all(weights[name].data_ptr() == live[name].data_ptr() for name in weights)
        assert not any(weight.requires_grad for weight in weights.values())


def test_gradient_reaches_every_site_and_nothing_else(
    backbone: Backbone, generator: torch.Generator
) -> None:
    weights = {n: w.clone().requires_grad_() for n, w in backbone.weights().items()}
    drawn = batch_for(backbone, generator)
    for name in ("latents", "noise"):  # keys get no gradient where a map is one pixel small
        drawn[name] = torch.randn(2, 4, 16, 16, generator=generator)
    loss = backbone.loss(weights, **drawn).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    assert all(bool((gradient != 0).any()) for gradient in gradients)
    assert all(parameter.grad is None for parameter in backbone.module.parameters())


def test_loss_puts_the_weights_in_place_and_leaves_the_model(
    backbone: Backbone, generator: torch.Generator
) -> None:
    before = {n: p.detach().clone() for n, p in backbone.module.named_parameters()}
    drawn = batch_for(backbone, generator)
    plain = backbone.loss(backbone.weights(), **drawn)
    assert torch.equal(plain, backbone.loss({}, **drawn))
    zeros = {n: torch.zeros_like(w) for n, w in backbone.weights("cross").items()}
    shut = backbone.loss(zeros, **drawn)
    assert not torch.equal(plain, shut)
    drawn["condition"] = backbone.condition(["a pot", "the photo"])
    if "text_embeds" not in drawn["condition"]:  # nothing of the text is left
        assert torch.equal(shut, backbone.loss(zeros, **drawn))
    after = dict(backbone.module.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_samples_do_not_meet(backbone: Backbone, generator: torch.Generator) -> None:
    drawn = batch_for(backbone, generator)
    together = backbone.loss({}, **drawn)
    condition = {name: value[1:] for name, value in drawn["condition"].items()}
    alone = {name: drawn[name][1:] for name in ("latents", "noise", "timesteps")}
    torch.testing.assert_close(together[1:], backbone.loss({}, **alone, condition=condition))


@pytest.mark.parametrize("weighting", ["uniform", "min-snr"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_is_the_formula(
    sd1: Any,
    fresh: Callable[[Any], Any],
    generator: torch.Generator,
    prediction: str,
    weighting: str,
) -> None:
    """Compare with diffusers' own forward pass and formulas written out in plain torch."""
    pipeline = fresh(sd1)
    set_prediction(pipeline, prediction)
    backbone = backbone_for(pipeline)
    drawn = batch_for(backbone, generator)
    x, eps, t = drawn["latents"], drawn["noise"], drawn["timesteps"]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    a = torch.cumprod(1 - betas, 0)[t].sqrt()[:, None, None, None]
    s = (1 - a**2).sqrt()
    time = t
    if prediction == "flow":
        linear = (t + 1) / 1000
        s = (3 * linear / (1 + 2 * linear))[:, None, None, None]
        a, time = 1 - s, s.flatten() * 1000
    target = {"epsilon": eps, "v_prediction": a * eps - s * x, "sample": x, "flow": eps - x}
    states = drawn["condition"]["encoder_hidden_states"]
    with torch.no_grad():
        predicted = pipeline.unet(a * x + s * eps, time, states).sample
    snr = (a / s).square().flatten()
    error_in_x = {"epsilon": 1 / snr, "v_prediction": s.flatten() ** 2, "sample": 1}
    share = error_in_x.get(prediction, s.flatten() ** 2) * snr.clamp(max=5)
    expected = (predicted - target[prediction]).square().mean((1, 2, 3))
    expected = expected * (share if weighting == "min-snr" else 1)
    found = backbone.loss({}, **drawn, weighting=weighting)
    assert found.shape == (2,)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_velocity_target_is_that_of_diffusers(sd2: Any, generator: torch.Generator) -> None:
    from diffusers import DDPMScheduler

    backbone = backbone_for(sd2)
    drawn = batch_for(backbone, generator)
    x, eps, t = drawn["latents"], drawn["noise"], drawn["timesteps"]
    ddpm = DDPMScheduler.from_config(sd2.scheduler.config)
    with torch.no_grad():
        states = drawn["condition"]["encoder_hidden_states"]
        predicted = sd2.unet(ddpm.add_noise(x, eps, t), t, states).sample
    expected = (predicted - ddpm.get_velocity(x, eps, t)).square().mean((1, 2, 3))
    torch.testing.assert_close(backbone.loss({}, **drawn), expected)


def test_xl_loss_is_that_of_diffusers(sdxl: Any, generator: torch.Generator) -> None:
    from diffusers import DDPMScheduler

    backbone = backbone_for(sdxl)
    drawn = batch_for(backbone, generator)
    embeds, _, pooled, _ = sdxl.encode_prompt(
        ["a cat", "a dog on the grass"], do_classifier_free_guidance=False, device="cpu"
    )
    times = sdxl._get_add_time_ids(
        (64, 64), (0, 0), (64, 64), torch.float32, text_encoder_projection_dim=32
    )
    added = {"text_embeds": pooled, "time_ids": times.repeat(2, 1)}
    x, eps, t = drawn["latents"], drawn["noise"], drawn["timesteps"]
    noisy = DDPMScheduler.from_config(sdxl.scheduler.config).add_noise(x, eps, t)
    with torch.no_grad():
        predicted = sdxl.unet(noisy, t, embeds, added_cond_kwargs=added).sample
    expected = (predicted - eps).square().mean((1, 2, 3))
    torch.testing.assert_close(backbone.loss({}, **drawn), expected)


@pytest.mark.parametrize(
    "sampler",
    ["EulerDiscreteScheduler", "PNDMScheduler", "DDIMScheduler", "UniPCMultistepScheduler"],
)
def test_noise_is_that_of_training_whatever_the_sampler(
    sd1: Any, fresh: Callable[[Any], Any], generator: torch.Generator, sampler: str
) -> None:
    import diffusers

    drawn = batch_for(backbone_for(sd1), generator)
    expected = backbone_for(sd1).loss({}, **drawn)
    other = fresh(sd1)
    other.scheduler = getattr(diffusers, sampler).from_config(sd1.scheduler.config)
    assert torch.equal(backbone_for(other).loss({}, **drawn), expected)
    other.scheduler.set_timesteps(5)
    assert torch.equal(backbone_for(other).loss({}, **drawn), expected)


def test_flow_sigmas_of_dpm_solver_count_as_flow() -> None:
    scheduler = make_scheduler("flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    schedule = NoiseSchedule.of(scheduler)
    assert schedule.prediction == "flow"
    scheduler.set_timesteps(1000)
    torch.testing.assert_close(
        schedule.times(torch.tensor([999, 499])).long(),
        scheduler.timesteps[[0, 500]],
        atol=1,
        rtol=0,
    )


def test_min_snr_stays_finite_without_signal() -> None:
    scheduler = make_scheduler("epsilon", rescale_betas_zero_snr=True)
    weights = NoiseSchedule.of(scheduler).weights(torch.arange(1000), "min-snr")
    assert bool(weights.isfinite().all())
    assert weights[-1] == 1


def test_learned_variance_is_left_out(generator: torch.Generator) -> None:
    backbone = backbone_for(make_sd(out_channels=8))
    drawn = batch_for(backbone, generator)
    expected = backbone.loss({}, **drawn)
    weight = backbone.module.conv_out.weight.detach().clone()
    weight[4:] = 0
    assert torch.equal(backbone.loss({"conv_out.weight": weight}, **drawn), expected)


def test_half_precision_takes_and_differentiates_single_precision(
    sd1: Any, fresh: Callable[[Any], Any], generator: torch.Generator
) -> None:
    pipeline = fresh(sd1)
    drawn = batch_for(backbone_for(sd1), generator)
    expected = backbone_for(sd1).loss({}, **drawn)
    pipeline.unet.to(torch.bfloat16)
    backbone = backbone_for(pipeline)
    weights = {n: w.float().requires_grad_() for n, w in backbone.weights().items()}
    found = backbone.loss(weights, **drawn)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    gradients = torch.autograd.grad(found.sum(), list(weights.values()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_latents_are_scaled_means_or_samples(
    backbone: Backbone, generator: torch.Generator
) -> None:
    pixels = torch.rand(5, 3, 64, 64, generator=generator)
    vae = backbone.pipeline.vae
    with torch.no_grad():
        posterior = vae.encode(2 * pixels - 1).latent_dist
    found = backbone.latents(pixels)
    assert found.shape == (5, *backbone.latent_shape)
    torch.testing.assert_close(found, posterior.mean * vae.config.scaling_factor)
    drawn = [
        backbone.latents(pixels, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], found)


def test_conditions_keep_the_order_of_prompts(backbone: Backbone) -> None:
    found = backbone.condition(["a dog", "a cat", "a dog"])
    alone = backbone.condition(["a cat"])
    for name, value in found.items():
        assert value.shape[0] == 3
        assert torch.equal(value[0], value[2])
        torch.testing.assert_close(value[1], alone[name][0])
    states = found["encoder_hidden_states"]
    assert not torch.equal(states[0], states[1])


def test_timesteps_are_spread_and_shuffled(sd1: Any) -> None:
    backbone = backbone_for(sd1)
    drawn = backbone.timesteps(10, torch.Generator().manual_seed(3))
    assert sorted(int(t) // 100 for t in drawn) == list(range(10))
    assert drawn.tolist() != sorted(drawn.tolist())
    assert torch.equal(drawn, backbone.timesteps(10, torch.Generator().manual_seed(3)))
    many = torch.cat([backbone.timesteps(1, torch.Generator().manual_seed(s)) for s in range(99)])
    assert 0 <= int(many.min()) < 100
    assert 900 < int(many.max()) < backbone.train_steps == 1000


def test_facts_about_the_model(backbone: Backbone) -> None:
    assert isinstance(backbone, Backbone)
    assert set(BACKBONES) == {"unet"}
    assert backbone.resolution == 64
    assert backbone.latent_shape == (4, 8, 8)
    backbone.release()
    assert backbone.model_id == "unnamed"


def test_recall_brings_every_part_to_the_device_of_the_network(
    backbone: Backbone, fresh: Callable[[Any], Any]
) -> None:
    pipeline = fresh(backbone.pipeline)
    encoders = [name for name in pipeline.components if name.startswith("text_encoder")]
    parts = [getattr(pipeline, name) for name in ("vae", *encoders)]
    pipeline.unet.to("meta")  # stands for any other device
    backbone_for(pipeline).recall()
    assert {part.device.type for part in parts} == {"meta"}
    pipeline.unet.to_empty(device="cpu")
    backbone_for(pipeline).recall()  # what is offloaded already stays where it is
    assert {part.device.type for part in parts} == {"meta"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/some/where/my-model", "my-model"),
        ("./my-model/", "my-model"),
        ("CompVis/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4"),
        ("/usr/lib/cones/mini/weights", "cones-mini"),
    ],
)
def test_model_id_says_no_folder(
    sd1: Any, fresh: Callable[[Any], Any], path: str, expected: str
) -> None:
    pipeline = fresh(sd1)
    pipeline.register_to_config(_name_or_path=path)
    assert backbone_for(pipeline).model_id == expected


def test_refuses_fused_projections(sd1: Any, fresh: Callable[[Any], Any]) -> None:
    pipeline = fresh(sd1)
    pipeline.fuse_qkv_projections()
    with pytest.raises(BackboneError, match="unfuse_qkv_projections"):
        backbone_for(pipeline).sites()
    pipeline.unfuse_qkv_projections()
    assert len(backbone_for(pipeline).sites()) == 64


def test_refuses_what_cannot_be_edited(sd1: Any, fresh: Callable[[Any], Any]) -> None:
    pipeline = fresh(sd1)
    backbone = backbone_for(pipeline)
    attention = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    layer = attention.to_k
    attention.to_k = nn.Module()
    attention.to_k.base_layer = layer
    with pytest.raises(BackboneError, match="found a LoRA on .*attn2.to_k"):
        backbone.sites()
    attention.to_k = layer
    for bad in (torch.int8, torch.float8_e4m3fn):
        layer.weight = nn.Parameter(layer.weight.data.to(bad), requires_grad=False)
        with pytest.raises(BackboneError, match="quantised"):
            backbone.sites()
    layer.weight = nn.Parameter(torch.empty(4, 4, device="meta"))
    with pytest.raises(BackboneError, match="without memory"):
        backbone.weights()


def test_refuses_other_pipelines_and_words(sd1: Any, fresh: Callable[[Any], Any]) -> None:
    with pytest.raises(BackboneError, match="found a object"):
        backbone_for(object())
    with pytest.raises(BackboneError, match="with a U-Net, a VAE"):
        BACKBONES["unet"](object())
    with pytest.raises(BackboneError, match="9 input channels"):
        backbone_for(make_sd(in_channels=9))
    backbone = backbone_for(sd1)
    with pytest.raises(BackboneError, match="found scope 'all'; expected one of both, cross"):
        backbone.sites("all")
    drawn = batch_for(backbone, torch.Generator().manual_seed(0))
    with pytest.raises(BackboneError, match="which the model lacks"):
        backbone.loss({"nothing.weight": torch.zeros(1)}, **drawn)
    with pytest.raises(BackboneError, match="found weighting 'snr'; expected one of uniform"):
        backbone.loss({}, **drawn, weighting="snr")
    pipeline = fresh(sd1)
    pipeline.scheduler.register_to_config(prediction_type="score")
    with pytest.raises(BackboneError, match="predicting 'score'"):
        backbone_for(pipeline)


def test_loads_a_folder(sd1: Any, tmp_path: Path) -> None:
    sd1.save_pretrained(tmp_path / "model")
    pipeline = load_pipeline(tmp_path / "model")
    assert type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    backbone = backbone_for(pipeline)
    assert backbone.model_id == "model"
    expected = sd1.unet.state_dict()
    assert all(torch.equal(expected[n], w) for n, w in backbone.weights().items())


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`:UserWarning")
def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="no model_index.json"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(BackboneError, match="found no readable model"):
        load_pipeline(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="local Hub cache"):
        load_pipeline("nobody/nothing")
