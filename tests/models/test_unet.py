"""Stable Diffusion as functions of its K/V weights, against diffusers itself."""

from collections.abc import Callable

import pytest
import torch
from accelerate import cpu_offload_with_hook
from peft import LoraConfig
from torch import Tensor, nn

from cones.errors import InterventionError, ModelError
from cones.models import Model, model_for
from cones.models.unet import computing, precision_of
from fakes import tiny_pipeline, tiny_pixels


@pytest.fixture(params=[False, True], ids=["sd", "xl"])
def model(request: pytest.FixtureRequest) -> Model:
    return model_for(tiny_pipeline(xl=request.param))


def drawn(model: Model) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    noised = torch.randn(2, *model.latent_shape, generator=draw)
    return noised, torch.tensor([10, 700]), model.condition(["a cat", "a dog on the grass"])


def changed(weights: dict[str, Tensor], *, seed: int = 3) -> dict[str, Tensor]:
    """Shut a third of the weights, as a search does, and ask for gradients."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.where(torch.rand(w.shape, generator=draw) < 0.3, 0.0, w).requires_grad_()
        for name, w in weights.items()
    }


def test_says_what_the_model_is(model: Model) -> None:
    assert (model.size, model.latent_shape) == (32, (4, 8, 8))
    assert model.name == "unnamed"


def test_bfloat16_is_near_and_leaves_weights_and_gradients_wide(model: Model) -> None:
    inputs, weights = drawn(model), changed(model.weights())
    said, slopes = [], []
    for precision in ("pipeline", "bfloat16"):
        with computing(model, precision):
            found = model.predict(weights, *inputs)
            gradients = torch.autograd.grad(found.square().mean(), list(weights.values()))
        assert {each.dtype for each in (found, *gradients)} == {torch.float32}
        said.append(found.detach())
        slopes.append(torch.cat([each.flatten() for each in gradients]))
    for exact, near in (said, slopes):
        assert 0 < float((near - exact).norm()) < 0.05 * float(exact.norm())
    with computing(model, "pipeline"):
        assert torch.equal(model.predict(weights, *inputs).detach(), said[0])


def test_auto_is_bfloat16_only_where_a_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small = model_for(tiny_pipeline())
    half = model_for(tiny_pipeline().to(torch.float16))
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert precision_of(small, "auto") == ("bfloat16" if native else "pipeline")
        assert precision_of(half, "auto") == "pipeline"
        assert precision_of(small, "pipeline") == "pipeline"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("owner/model", "owner/model"),
        ("/home/me/models/mine/", "mine"),
        ("C:\\models\\mine", "mine"),
        ("/c/models--owner--model/snapshots/0a1b", "owner/model"),
        ("/x/cones/models/builtin/weights", "cones-builtin"),
    ],
)
def test_names_a_model_by_hub_name_or_folder(path: str, name: str) -> None:
    pipeline = tiny_pipeline()
    pipeline.register_to_config(_name_or_path=path)
    assert model_for(pipeline).name == name


def test_names_every_key_and_value_projection(model: Model) -> None:
    expected = {
        f"{n}.weight" for n, _ in model.module.named_modules() if n.endswith((".to_k", ".to_v"))
    }
    assert set(model.names()) == expected
    assert set(model.names("cross")) == {n for n in expected if ".attn2." in n}
    assert set(model.names("self")) == {n for n in expected if ".attn1." in n}
    for name, weight in model.weights().items():
        assert weight.data_ptr() == model.module.get_parameter(name).data_ptr()
        assert not weight.requires_grad


def test_predicts_what_the_network_predicts(model: Model) -> None:
    noised, times, condition = drawn(model)
    added = {k: v.float() for k, v in condition.items() if k != "encoder_hidden_states"}
    with torch.no_grad():
        expected = model.module(
            noised, times, condition["encoder_hidden_states"], added_cond_kwargs=added or None
        ).sample
        torch.testing.assert_close(model.predict({}, noised, times, condition), expected)
        half = {name: weight / 2 for name, weight in model.weights().items()}
        found = model.predict(half, noised, times, condition)
        for weight in model.weights().values():
            weight /= 2
        torch.testing.assert_close(found, model.predict({}, noised, times, condition))
        assert not torch.allclose(found, expected, atol=1e-3)


def reentrant(part: nn.Module, *inputs: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(part, *inputs, use_reentrant=True)


@pytest.mark.parametrize("function", [None, reentrant])
@pytest.mark.parametrize("trained", [True, False])
def test_gradients_are_exact_under_checkpointing(
    model: Model, function: Callable | None, *, trained: bool
) -> None:
    noised, times, condition = drawn(model)
    weights = changed(model.weights())

    def gradients() -> list[Tensor]:
        loss = model.predict(weights, noised, times, condition).square().mean()
        return list(torch.autograd.grad(loss, list(weights.values())))

    expected = gradients()
    model.module.requires_grad_(trained)
    model.module.enable_gradient_checkpointing(function)
    before = [getattr(p, "_gradient_checkpointing_func", None) for p in model.module.modules()]
    for found, right in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))
    after = [getattr(p, "_gradient_checkpointing_func", None) for p in model.module.modules()]
    assert before == after


def test_gradients_reach_half_precision_networks(model: Model) -> None:
    model.module.to(torch.bfloat16)
    weights = {name: w.float().requires_grad_() for name, w in model.weights().items()}
    predicted = model.predict(weights, *drawn(model))
    assert predicted.dtype == torch.float32
    found = torch.autograd.grad(predicted.sum(), list(weights.values()))
    assert all(g.dtype == torch.float32 and bool(g.abs().sum() > 0) for g in found)


def test_searches_below_a_lora(model: Model) -> None:
    plain = {name: weight.clone() for name, weight in model.weights().items()}
    targets = ["to_k", "to_v", "to_q"]
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    model.module.add_adapter(config)
    found = model.weights()
    assert all(torch.equal(found[name], weight) for name, weight in plain.items())
    assert found.keys() == plain.keys()
    noised, times, condition = drawn(model)
    with torch.no_grad():
        expected = model.predict({}, noised, times, condition)
        assert torch.equal(model.predict(plain, noised, times, condition), expected)
        zeros = {name: torch.zeros_like(weight) for name, weight in plain.items()}
        assert not torch.equal(model.predict(zeros, noised, times, condition), expected)


def test_refuses_projections_that_cannot_be_edited() -> None:
    pipeline = tiny_pipeline()
    pipeline.unet.fuse_qkv_projections()
    with pytest.raises(ModelError, match="call pipeline.unfuse_qkv_projections"):
        model_for(pipeline).names()
    pipeline.unet.unfuse_qkv_projections()
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    good = layer.weight
    for bad in (good.data.to(torch.int8), good.data.to(torch.float8_e4m3fn), good.data.to("meta")):
        layer.weight = nn.Parameter(bad, requires_grad=False)
        with pytest.raises(InterventionError, match=f"of {bad.dtype} on {bad.device}, .*ordinary"):
            model_for(pipeline).weights()


def test_encodes_the_mean_one_picture_at_a_time(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, pixels = model.pipeline.vae, tiny_pixels(3)
    with torch.no_grad():
        expected = vae.encode(pixels * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    sizes = []
    encode = type(vae).encode
    monkeypatch.setattr(
        type(vae), "encode", lambda self, x: sizes.append(len(x)) or encode(self, x)
    )
    torch.testing.assert_close(model.encode(pixels), expected, rtol=1e-4, atol=1e-5)
    assert sizes == [1, 1, 1]


def test_scales_latents_as_the_vae_says() -> None:
    pipeline = tiny_pipeline()
    model, pixels = model_for(pipeline), tiny_pixels(1)
    plain = model.encode(pixels) / 0.5
    pipeline.vae.register_to_config(scaling_factor=None)
    torch.testing.assert_close(model.encode(pixels), plain)
    pipeline.vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    torch.testing.assert_close(model.encode(pixels), (plain - 0.25) * 0.5)
    mean, deviation = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    pipeline.vae.register_to_config(
        shift_factor=None, latents_mean=mean, latents_std=deviation, scaling_factor=0.5
    )
    shape = (1, 4, 1, 1)
    expected = (plain - torch.tensor(mean).view(shape)) / torch.tensor(deviation).view(shape) * 0.5
    torch.testing.assert_close(model.encode(pixels), expected)


def test_a_half_vae_that_overflows_is_widened_meanwhile(model: Model) -> None:
    vae = model.pipeline.vae
    vae.half()
    vae.register_to_config(force_upcast=True)
    with torch.no_grad():
        wide = vae.float().encode(tiny_pixels(1) * 2 - 1).latent_dist.mode() * 0.5
    vae.half()
    torch.testing.assert_close(model.encode(tiny_pixels(1)), wide, rtol=1e-4, atol=1e-5)
    assert vae.dtype == torch.float16


def test_conditions_are_those_of_the_pipeline(model: Model) -> None:
    prompts = ["a cat", "a dog", "a cat"]
    found = model.condition(prompts)
    encoded = model.pipeline.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    torch.testing.assert_close(found["encoder_hidden_states"], encoded[0])
    if "text_embeds" in found:
        torch.testing.assert_close(found["text_embeds"], encoded[2])
        assert found["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 3
    assert not found["encoder_hidden_states"].requires_grad
    assert model.embedded(prompts)["encoder_hidden_states"].requires_grad


def test_works_behind_offload_hooks(model: Model) -> None:
    pipeline, pixels = model.pipeline, tiny_pixels(1)
    expected = model.encode(pixels), model.predict({}, *drawn(model))
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        cpu_offload_with_hook(part, execution_device=torch.device("cpu"))
    assert torch.equal(model.encode(pixels), expected[0])
    assert torch.equal(model.predict({}, *drawn(model)), expected[1])


def test_encoders_leave_and_come_back(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = []
    monkeypatch.setattr(
        nn.Module, "to", lambda self, place: moves.append((type(self).__name__, str(place)))
    )
    monkeypatch.setattr(type(model.pipeline.vae), "device", torch.device("cuda:0"))

    def failing() -> None:
        with model.without_encoders():
            assert ("AutoencoderKL", "cpu") in moves
            raise KeyError

    monkeypatch.setattr(type(model.pipeline.vae), "to", nn.Module.to)
    with pytest.raises(KeyError):
        failing()
    assert moves[-1] == ("AutoencoderKL", "cuda:0")


def test_a_compiled_network_is_seen_through() -> None:
    pipeline, wrapper = tiny_pipeline(), nn.Module()  # as torch.compile wraps
    wrapper._orig_mod = plain = pipeline.unet
    pipeline.unet = wrapper
    assert model_for(pipeline).module is plain
