"""The one sampling loop, against calls of diffusers' pipelines."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from cones.errors import PromptError, SubjectError
from cones.models import Pipeline, model_for, sampling
from cones.models.sampling import FEW_STEPS, STEPS, defaults, sample
from cones.models.words import encoders, spoken, vectors
from fakes import LENGTH, WORDS, tiny_pipeline, tiny_pixels

UNCHECKED = {"requires_safety_checker": False}
FAST = {"num_inference_steps": 2}


@pytest.fixture(params=[False, True], ids=["sd", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline(xl=request.param)


def photo(seed: int = 5) -> Image.Image:
    pixels = tiny_pixels(1, seed=seed)[0].permute(1, 2, 0)
    return Image.fromarray((255 * pixels).round().byte().numpy())


def far(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_draws_what_the_pipeline_draws(pipeline: Pipeline) -> None:
    found = sample(
        pipeline, ["a cat"], seeds=[3], **FAST, guidance_scale=4.0, negative_prompt="red"
    )
    expected = pipeline(
        "a cat", negative_prompt="red", guidance_scale=4.0, generator=generator(3), **FAST
    )
    assert far(found[0], expected.images[0]) <= 1


def test_a_picture_depends_on_its_own_seed_alone(pipeline: Pipeline) -> None:
    prompts, seeds = ["a cat", "a dog", "a cat"], [1, 2, 3]
    together = sample(pipeline, prompts, seeds=seeds, **FAST)
    for prompt, seed, expected in zip(prompts, seeds, together, strict=True):
        (alone,) = sample(pipeline, [prompt], seeds=[seed], **FAST)
        assert far(alone, expected) <= 1
    assert far(together[0], together[2]) > 1


LONG = " ".join(WORDS[: LENGTH + 3])  # every word is one token


@torch.no_grad()
def chunked(pipeline: Pipeline, prompt: str) -> dict[str, torch.Tensor]:
    """Encode two chunks as A1111 does: by tokens, each between a begin and an end."""
    xl, states = hasattr(pipeline, "text_encoder_2"), []
    for tokenizer, encoder in encoders(pipeline).values():
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        rows, room = [], LENGTH - 2
        for chunk in (ids[:room], ids[room:]):
            end = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (room - len(chunk))
            rows.append([tokenizer.bos_token_id, *chunk, *end])
        read = encoder(torch.tensor(rows), output_hidden_states=True)
        states.append(torch.cat([*(read.hidden_states[-2] if xl else read[0])]))
    found = {"prompt_embeds": torch.cat(states, -1)[None]}
    return found | ({"pooled_prompt_embeds": read[0][:1]} if xl else {})


@pytest.mark.parametrize("unwanted", ["red", None, f"{LONG} red"])
def test_a_long_prompt_is_read_in_chunks(pipeline: Pipeline, unwanted: str | None) -> None:
    """XL reads no words against as zeros, as with short prompts."""
    options = {**FAST, "guidance_scale": 4.0}
    (found,) = sample(pipeline, [LONG], seeds=[3], negative_prompt=unwanted, **options)
    against = chunked(pipeline, unwanted or "")
    if unwanted is None and hasattr(pipeline, "text_encoder_2"):
        against = {name: torch.zeros_like(each) for name, each in against.items()}
    read = chunked(pipeline, LONG) | {f"negative_{n}": each for n, each in against.items()}
    expected = pipeline(**read, generator=generator(3), **options).images[0]
    assert far(found, expected) <= 1
    (cut,) = sample(pipeline, [LONG.split(WORDS[LENGTH])[0]], seeds=[3], **options)
    assert far(found, cut) > 1


def test_words_against_may_be_longer_than_the_prompt(pipeline: Pipeline) -> None:
    options = {**FAST, "guidance_scale": 4.0}
    (found,) = sample(pipeline, ["a cat"], seeds=[3], negative_prompt=LONG, **options)
    against = {f"negative_{n}": each for n, each in chunked(pipeline, LONG).items()}
    read = {**chunked(pipeline, "a cat"), **against}
    expected = pipeline(**read, generator=generator(3), **options).images[0]
    assert far(found, expected) <= 1


def test_long_and_short_prompts_do_not_meet_in_a_batch(pipeline: Pipeline) -> None:
    prompts = ["a cat", LONG, f"red {LONG}", "a dog"]
    together = sample(pipeline, prompts, seeds=range(4), **FAST)
    for seed in (0, 3):  # bit for bit as without the others
        (alone,) = sample(pipeline, [prompts[seed]], seeds=[seed], **FAST)
        assert far(alone, together[seed]) == 0
    (alone,) = sample(pipeline, [LONG], seeds=[1], **FAST)
    assert far(alone, together[1]) <= 1


def test_a_new_word_is_heard_in_the_second_part_and_over_a_photo(pipeline: Pipeline) -> None:
    drawn = []
    for like in ("cat", "red"):
        with spoken(pipeline, {"V*": vectors(pipeline, like)}):
            said = {"prompts": [f"{LONG} V*"], "seeds": [0], "num_inference_steps": 4}
            drawn += sample(pipeline, **said) + sample(pipeline, image=photo(), **said)
    assert far(drawn[0], drawn[2]) > 1
    assert far(drawn[1], drawn[3]) > 1


def test_large_pictures_are_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, seen = [], []

    def paint(*, prompt: list[str], **_: object) -> SimpleNamespace:
        drawn.append(len(prompt))
        return SimpleNamespace(images=[photo()] * len(prompt))

    for size in (256, 512, 513):
        model = SimpleNamespace(size=size)
        monkeypatch.setattr(sampling, "model_for", lambda _, model=model: model)
        monkeypatch.setattr(sampling, "_settled", lambda *_: {})
        monkeypatch.setattr(sampling, "_unchanged", lambda *_: {})
        monkeypatch.setattr(sampling, "parts", lambda *_: ["a cat"])
        monkeypatch.setattr(sampling, "told", lambda _, said, *__: {"prompt": said})
        monkeypatch.setattr(sampling, "_artist", lambda *_, **__: nullcontext(paint))
        sample(None, ["a cat"] * 9, seeds=range(9), progress=lambda *at: seen.append(at))
    assert drawn == [8, 1, 4, 4, 1, *[1] * 9]
    assert seen[:2] == [("draw", 8, 9), ("draw", 9, 9)]


def test_the_progress_bar_is_as_before_also_after_an_error(pipeline: Pipeline) -> None:
    pipeline.set_progress_bar_config(desc="mine", disable=False)

    def stop(*at: object) -> None:
        assert pipeline._progress_bar_config["disable"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(pipeline, ["a cat"], seeds=[0], **FAST, progress=stop)
    assert pipeline._progress_bar_config == {"desc": "mine", "disable": False}


def test_over_a_photo_as_image_to_image_does(pipeline: Pipeline) -> None:
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "strength": 0.5}
    found = sample(pipeline, ["a cat"] * 2, seeds=[3, 4], image=photo(), **options)
    name, parts = type(pipeline).__name__, pipeline.components
    name = name.replace("Pipeline", "Img2ImgPipeline")
    kind = getattr(__import__("diffusers"), name)
    checker = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    over = kind(**parts, **checker)
    expected = over(
        ["a cat"] * 2, image=photo(), generator=[generator(3), generator(4)], **options
    )
    assert all(far(a, b) <= 1 for a, b in zip(found, expected.images, strict=True))
    assert far(found[0], found[1]) > 1


@pytest.mark.parametrize(
    "kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, None]
)
def test_other_pipelines_draw_from_text_and_over_photos(kind: Callable | None) -> None:
    plain = tiny_pipeline()
    parts = dict(plain.components)
    if kind is None:
        kind = StableDiffusionControlNetPipeline
        parts["controlnet"] = ControlNetModel.from_unet(plain.unet)
    other = kind(**parts, requires_safety_checker=False)
    for options in ({}, {"image": photo()}):
        (found,) = sample(other, ["a cat"], seeds=[1], **FAST, **options)
        (expected,) = sample(plain, ["a cat"], seeds=[1], **FAST, **options)
        assert far(found, expected) <= 1


def controlled() -> Pipeline:
    plain = tiny_pipeline()
    net = ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=(8, 8, 8))
    for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:  # zero at first
        torch.nn.init.constant_(block.weight, 0.1)
    parts = {**plain.components, "controlnet": net}
    return StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)


def test_a_controlnet_is_followed_from_text_and_over_a_photo() -> None:
    pipeline, edges = controlled(), photo(9)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0}
    options |= {"controlnet_conditioning_scale": 0.7}
    found = sample(pipeline, ["a cat"], seeds=[3], control_image=edges, **options)[0]
    expected = pipeline("a cat", image=edges, generator=generator(3), **options).images[0]
    assert far(found, expected) <= 1
    assert far(found, sample(pipeline, ["a cat"], seeds=[3])[0]) > 1
    over = StableDiffusionControlNetImg2ImgPipeline(**pipeline.components, **UNCHECKED)
    options |= {"image": photo(), "control_image": edges, "strength": 0.5}
    found = sample(pipeline, ["a cat"], seeds=[3], **options)[0]
    expected = over("a cat", generator=generator(3), **options).images[0]
    assert far(found, expected) <= 1


def test_each_model_has_its_own_steps_and_guidance(pipeline: Pipeline) -> None:
    own = 5.0 if hasattr(pipeline, "text_encoder_2") else 7.5
    assert defaults(model_for(pipeline)) == (STEPS, own)
    pipeline.register_to_config(_name_or_path="/x/cones/models/builtin/weights")
    assert defaults(model_for(pipeline)) == (STEPS, 3.0)
    config = pipeline.scheduler.config
    turbo = EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
    for scheduler in (turbo, LCMScheduler.from_config(config)):
        pipeline.scheduler = scheduler
        assert defaults(model_for(pipeline)) == (FEW_STEPS, 1.0)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        config, timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    assert defaults(model_for(pipeline)) == (STEPS, 3.0)
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    assert defaults(model_for(pipeline)) == (FEW_STEPS, own)


def test_defaults_are_what_is_drawn_with() -> None:
    pipeline, told = tiny_pipeline(), []
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    call = type(pipeline).__call__

    class Listening(type(pipeline)):
        def __call__(self, *args: object, guidance_scale: float = 7.5, **named: object) -> object:
            told.append((named["num_inference_steps"], guidance_scale))
            return call(self, *args, guidance_scale=guidance_scale, **named)

    pipeline.__class__ = Listening
    sample(pipeline, ["a cat"], seeds=[0])
    sample(pipeline, ["a cat"], seeds=[0], num_inference_steps=2, guidance_scale=0.0)
    assert told == [(FEW_STEPS, 1.0), (2, 0.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": -1}, "found -1 of -1 steps to make; expected at least one"),
        ({"image": photo(), "strength": 0.0}, "found 0 of 25 steps .* and strength up to 1"),
        (
            {"control_image": photo()},
            "a control image for a StableDiffusionPipeline.*--controlnet",
        ),
        ({"image": photo(), "strength": 1.5}, "37 of 25 steps"),
        (
            {"image": photo(), "strength": 0.3, "num_inference_steps": 2},
            "found 0 of 2 steps to make",
        ),
    ],
)
def test_says_what_does_not_fit(options: dict, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        sample(tiny_pipeline(), ["a cat"], seeds=[0], **options)


def test_a_photo_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SubjectError, match=r"nothing.png"):
        sample(tiny_pipeline(), ["a cat"], seeds=[0], image="nothing.png")
