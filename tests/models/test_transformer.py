"""Stable Diffusion 3, Flux, PixArt and Sana, against what diffusers' own pipelines compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from cones import exporting
from cones.analysis.attention import attend
from cones.errors import ModelError, PromptError
from cones.models import Model, Pipeline, model_for
from cones.models.applied import applied
from cones.models.loading import load_pipeline
from cones.models.prompts import check_prompt
from cones.models.sampling import FEW_STEPS, defaults, sample
from cones.models.words import candidates, encoders, reads, spoken, vectors
from experiments.small_transformers import TRANSFORMERS
from fakes import tiny_concept, tiny_transformer

FAST: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 1.0}
STRONG: dict[str, Any] = FAST | {"num_inference_steps": 2, "strength": 0.5}
SMALL: dict[str, Any] = {"height": 64, "width": 64}  # Sana would draw 1024 pixels
T5_ONLY = ("PixArt", "Sana")


@pytest.fixture(params=TRANSFORMERS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str) -> Model:
    return model_for(tiny_transformer(family))


def drawn(model: Model, *prompts: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    said = prompts or ("a cat", "a dog on grass")
    noised = torch.randn(len(said), *model.latent_shape, generator=generator(0))
    return noised, torch.tensor([10, 700])[: len(said)], model.condition(said)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shut a third of the weights, as a search does, and ask for gradients."""
    draw = generator(3)
    return {
        name: torch.where(torch.rand(w.shape, generator=draw) < 0.3, 0.0, w).requires_grad_()
        for name, w in weights.items()
    }


@contextmanager
def heard(model: Model) -> Iterator[list[dict[str, Any]]]:
    """Listen to what the network is called with, and to what it says."""
    calls: list[dict[str, Any]] = []

    def called(module: object, args: tuple, options: dict[str, Any]) -> None:
        calls.append(options | ({"hidden_states": args[0]} if args else {}))

    def answered(module: object, args: tuple, output: tuple) -> None:
        calls[-1]["output"] = output[0]

    hooks = model.module.register_forward_pre_hook(called, with_kwargs=True)
    with hooks, model.module.register_forward_hook(answered):
        yield calls


def test_says_what_the_model_is(model: Model) -> None:
    assert (model.size, model.latent_shape) == (64, (4, 8, 8))
    pixels = torch.rand(2, 3, 64, 64, generator=generator(0))
    vae = model.pipeline.vae
    with torch.no_grad():
        encoded = vae.encode(pixels * 2 - 1)
    expected = encoded[0].mode() if hasattr(encoded, "latent_dist") else encoded[0]
    expected = (expected - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
    torch.testing.assert_close(model.encode(pixels), expected, rtol=1e-4, atol=1e-5)


def test_the_text_stream_is_cross_and_the_rest_is_self(model: Model, family: str) -> None:
    every = [name for name, _ in model.module.named_parameters() if name.endswith(".weight")]
    leaves = ("to_k", "to_v", "add_k_proj", "add_v_proj")
    expected = {name for name in every if name.split(".")[-2] in leaves}
    of_text = ".attn2." if family in T5_ONLY else "add_"
    cross = {name for name in expected if of_text in name}
    assert set(model.weights()) == expected
    assert set(model.weights("cross")) == cross
    assert set(model.weights("self")) == expected - cross
    assert cross
    assert cross != expected


def test_the_network_is_called_as_the_pipeline_calls_it(model: Model, family: str) -> None:
    """One step from pure noise: the same inputs, and the answer in the shape of latents."""
    pipeline, prompt = model.pipeline, "a cat on grass"
    if family == "Sana":
        pipeline.transformer.register_to_config(timestep_scale=0.5)
    guided = {} if family == "Flux" else {"guidance_scale": 1.0}  # Flux is told its guidance
    own = {**SMALL, "use_resolution_binning": False} if family in T5_ONLY else SMALL
    with heard(model) as calls:
        options = {"generator": generator(5), "output_type": "latent", **own, **guided}
        pipeline(prompt, num_inference_steps=1, **options)
        noise = calls[0]["hidden_states"]
        if family == "Flux":
            noise = pipeline._unpack_latents(noise, 64, 64, 8)
        found = model.predict({}, noise, torch.tensor([999]), model.condition([prompt]))
    theirs, ours = calls
    assert theirs["timestep"].float().tolist() == pytest.approx(
        ours["timestep"].float().tolist(), rel=2e-3
    )
    for name in theirs.keys() - {"timestep", "output", "return_dict"}:
        expected, given = theirs[name], ours.get(name)
        if isinstance(expected, Tensor):
            torch.testing.assert_close(given, expected, check_dtype=False)
    raw = ours["output"]
    if family == "Flux":
        assert torch.equal(pipeline._pack_latents(found, 1, 4, 8, 8), raw)
    else:
        assert torch.equal(found, raw[:, :4])


def test_predicts_with_the_weights_that_are_handed_in(model: Model) -> None:
    inputs = drawn(model)
    with torch.no_grad():
        plain = model.predict({}, *inputs)
        half = {name: weight / 2 for name, weight in model.weights().items()}
        found = model.predict(half, *inputs)
        for weight in model.weights().values():
            weight /= 2
        torch.testing.assert_close(found, model.predict({}, *inputs))
    assert not torch.allclose(found, plain, atol=1e-4)


def test_gradients_reach_every_weight_and_are_exact_under_checkpointing(model: Model) -> None:
    inputs, weights = drawn(model), changed(model.weights())

    def gradients() -> list[Tensor]:
        loss = model.predict(weights, *inputs).square().mean()
        return list(torch.autograd.grad(loss, list(weights.values())))

    expected = gradients()
    model.module.enable_gradient_checkpointing()
    for found, right in zip(gradients(), expected, strict=True):
        assert right.any()
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))


def test_searches_below_a_lora(model: Model) -> None:
    plain = {name: weight.clone() for name, weight in model.weights().items()}
    names = ["to_q", "to_k", "to_v", "add_k_proj"]
    config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    inject_adapter_in_model(config, model.module)
    found = model.weights()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], weight) for name, weight in plain.items())
    inputs = drawn(model)
    with torch.no_grad():
        assert torch.equal(model.predict(plain, *inputs), model.predict({}, *inputs))


def state(pipeline: Pipeline) -> list[str]:
    return [tokenizer.backend_tokenizer.to_str() for tokenizer, _ in encoders(pipeline).values()]


def test_t5_and_gemma_read_the_rare_word_that_the_identifier_started_from(model: Model) -> None:
    """Also under another name, in lower letters, in a context within, and in half precision."""
    pipeline, before = model.pipeline, state(model.pipeline)
    expected, plain = (model.condition([f"a {word}cat, red"]) for word in ("sks ", ""))
    other = ["a XV* cat", "a V*s cat"]
    untouched = model.condition(other)
    rows = vectors(pipeline, "sks")
    halves = {n: r.bfloat16() if reads(getattr(pipeline, n)) else r for n, r in rows.items()}
    with spoken(pipeline, {"V*": rows}), spoken(pipeline, {"V2*": halves}):
        found = [model.condition([f"a {word} cat, red"]) for word in ("V*", "V2*")]
        for tokenizer, encoder in encoders(pipeline).values():
            assert encoder.config.vocab_size >= tokenizer.vocab_size
        glued = model.condition(other)
    for name, value in expected.items():
        assert all(torch.equal(each[name], value) for each in found)
    states = "encoder_hidden_states"
    assert torch.equal(glued[states], untouched[states])
    assert not torch.equal(plain[states], expected[states])
    assert state(pipeline) == before


def test_vectors_of_no_rare_word_are_refused(model: Model) -> None:
    pipeline, before = model.pipeline, state(model.pipeline)
    rows = vectors(pipeline, "sks")
    wrong = {n: row + 1 if reads(getattr(pipeline, n)) else row for n, row in rows.items()}
    with pytest.raises(ModelError, match="found vectors of no rare word for 'V\\*'"):
        spoken(pipeline, {"V*": wrong}).__enter__()
    assert state(pipeline) == before


def test_every_rare_word_can_start_where_no_vocabulary_grows(model: Model, family: str) -> None:
    known = candidates(model.pipeline)
    assert known == (("sks", "ktn", "pll", "ucd", "wnv") if family in T5_ONLY else ("sks",))


def test_an_identifier_behind_what_is_read_is_refused(model: Model, family: str) -> None:
    pipeline = model.pipeline
    with spoken(pipeline, {"V*": vectors(pipeline, "sks")}):
        check_prompt(pipeline, "a V* cat", ["V*"])
        with pytest.raises(PromptError, match="found 'V\\*' as token .* say it earlier"):
            check_prompt(pipeline, f"{'a ' * 300}V* cat", ["V*"])


def far(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def test_draws_what_the_pipeline_draws_and_puts_all_back(model: Model, family: str) -> None:
    pipeline, before = model.pipeline, state(model.pipeline)
    own = {**SMALL, "use_resolution_binning": False} if family in T5_ONLY else SMALL
    weights = {name: weight.clone() for name, weight in model.weights().items()}
    (plain,) = sample(pipeline, ["a cat"], seeds=[3], **FAST)
    expected = pipeline("a cat", generator=generator(3), **own, **FAST).images[0]
    assert far(plain, expected) <= 1
    with applied(pipeline, [tiny_concept(pipeline)]):
        (shut,) = sample(pipeline, ["a V* cat"], seeds=[3], **FAST)
    assert far(shut, plain) > 0
    assert state(pipeline) == before
    assert all(torch.equal(weights[name], w) for name, w in model.weights().items())


def schnell() -> Pipeline:
    pipeline = tiny_transformer("Flux")
    pipeline.transformer.register_to_config(guidance_embeds=False)
    return pipeline


def test_drawing_settings_are_those_of_the_model() -> None:
    found = {name: defaults(model_for(tiny_transformer(name))) for name in TRANSFORMERS}
    assert found == {"SD 3": (25, 7.0), "Flux": (25, 3.5), "PixArt": (25, 4.5), "Sana": (25, 4.5)}
    assert defaults(model_for(schnell()))[0] == FEW_STEPS


def test_draws_over_a_photo_where_diffusers_can() -> None:
    photo = Image.new("RGB", (64, 64), "red")
    (over,) = sample(tiny_transformer("Flux"), ["a cat"], seeds=[0], image=photo, **STRONG)
    assert over.size == (64, 64)
    with pytest.raises(PromptError, match="PixArtSigmaPipeline, of which diffusers has no such"):
        sample(tiny_transformer("PixArt"), ["a cat"], seeds=[0], image=photo, **STRONG)


def test_a_negative_prompt_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(PromptError, match="found a negative prompt for a FluxPipeline"):
        sample(tiny_transformer("Flux"), ["a cat"], seeds=[0], negative_prompt="red", **FAST)


def test_sizes_are_told_to_the_pixart_that_asks_for_them() -> None:
    pipeline = tiny_transformer("PixArt")
    config = dict(pipeline.transformer.config) | {"use_additional_conditions": True}
    pipeline.transformer = PixArtTransformer2DModel.from_config(config).eval()
    model = model_for(pipeline)
    with heard(model) as calls:
        model.predict({}, *drawn(model))
    added = calls[0]["added_cond_kwargs"]
    assert added["resolution"].tolist() == [[64.0, 64.0]] * 2  # as its pipeline does
    assert added["aspect_ratio"].tolist() == [[1.0]] * 2


def lacking(part: str) -> Pipeline:
    pipeline = tiny_transformer("SD 3")
    setattr(pipeline, part, None)
    return pipeline


def fused(family: str) -> Pipeline:
    pipeline = tiny_transformer(family)
    pipeline.transformer.fuse_qkv_projections()
    return pipeline


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lacking("vae"), "found a StableDiffusion3Pipeline with no vae; expected a whole"),
        (lambda: lacking("text_encoder"), "with no text_encoder"),
        (
            lambda: lacking("transformer"),
            "expected a pipeline of one of these families: unet, sd3",
        ),
        (lambda: fused("SD 3"), "call pipeline.unfuse_qkv_projections"),
        (lambda: fused("Flux"), "call pipeline.unfuse_qkv_projections"),
    ],
)
def test_refuses_what_would_fail_later(make: Callable[[], Pipeline], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_for(make()).weights()


def test_works_without_t5_as_people_load_it() -> None:
    pipeline = lacking("text_encoder_3")
    pipeline.tokenizer_3 = None
    model = model_for(pipeline)
    assert list(encoders(pipeline)) == ["text_encoder", "text_encoder_2"]
    assert model.predict({}, *drawn(model)).shape == (2, 4, 8, 8)


def test_what_only_a_unet_can_is_refused(model: Model, tmp_path: Path) -> None:
    pipeline, concept = model.pipeline, tiny_concept(model.pipeline)
    for target in ("single-file", "comfyui", "a1111"):
        with pytest.raises(ModelError, match="of other families join queries, keys and values"):
            exporting.export(pipeline, concept, tmp_path / "cat.safetensors", to=target)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="expected a model with a U-Net"):
        attend(pipeline, [concept], "a V* cat", ["cat"])


def test_a_single_file_of_these_families_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sd3.safetensors"
    save_file({"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="found no U-Net.* other families from a folder"):
        load_pipeline(path, device="cpu")


@pytest.mark.parametrize("name", ["SD 3", "Sana"])
def test_loads_with_its_own_sampler(name: str, tmp_path: Path) -> None:
    pipeline = tiny_transformer(name)
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path, device="cpu")
    assert type(again.scheduler) is type(pipeline.scheduler)
    assert model_for(again).schedule == model_for(pipeline).schedule
    with spoken(again, {"V*": vectors(again, "sks")}):
        said, expected = (model_for(again).condition([f"a {w} cat"]) for w in ("V*", "sks"))
    assert all(torch.equal(said[key], value) for key, value in expected.items())
    with pytest.raises(ModelError, match="found resolution 32 for a .*; leave it out"):
        load_pipeline(tmp_path, device="cpu", resolution=32)
