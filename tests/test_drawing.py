"""Pictures with concepts and controls, noise for noise; records that other programs read."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones import drawing
from cones.drawing import (
    CONCEPT,
    PHOTOS,
    RANDOM,
    UNTOUCHED,
    Request,
    compare,
    generate,
    png_bytes,
    read_record,
    save_png,
    sheet,
)
from cones.errors import MaskError, PromptError
from cones.models import Pipeline, model_for
from fakes import tiny_concept, tiny_pipeline

FAST = {"num_inference_steps": 2}


@pytest.fixture
def pipeline() -> Pipeline:
    return tiny_pipeline()


def far(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def test_draws_what_the_pipeline_draws_inside_the_context(pipeline: Pipeline) -> None:
    concept = tiny_concept(pipeline)
    before = [weight.clone() for weight in pipeline.unet.parameters()]
    found = generate(pipeline, concept, ["a V* cat", "a V* dog"], seeds=[4, 5], **FAST)
    assert all(map(torch.equal, before, pipeline.unet.parameters()))
    with concept.applied(pipeline):
        for image, (prompt, seed) in zip(
            found,
            [("a V* cat", 4), ("a V* cat", 5), ("a V* dog", 4), ("a V* dog", 5)],
            strict=True,
        ):
            draw = torch.Generator().manual_seed(seed)
            assert far(image, pipeline(prompt, generator=draw, **FAST).images[0]) <= 1


def test_strengths_count_one_by_one(pipeline: Pipeline) -> None:
    cat, dog = tiny_concept(pipeline), tiny_concept(pipeline, "V2*", "dog", seed=2)
    said = "a V* cat and a V2* dog"
    alone = generate(pipeline, [cat, dog], said, strengths=[1, 0], seeds=[1], **FAST)
    both = generate(pipeline, [cat, dog], said, seeds=[1], **FAST)
    union = generate(pipeline, cat | dog, said, seeds=[1], **FAST)
    assert far(alone[0], both[0]) > 1
    assert far(union[0], both[0]) <= 1


def test_without_concepts_the_untouched_model_draws(pipeline: Pipeline) -> None:
    found = generate(pipeline, [], "a cat", seeds=[4], **FAST)
    draw = torch.Generator().manual_seed(4)
    assert far(found[0], pipeline("a cat", generator=draw, **FAST).images[0]) <= 1


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a V*cat", {}, r"found 'V\*' glued"),
        ("a (V* cat:1.3)", {}, "expected plain words"),
        ("a V* cat", {"negative_prompt": "<lora:bad:1>"}, "<lora:bad:1>"),
    ],
)
def test_prompts_that_lose_the_word_are_not_drawn(
    pipeline: Pipeline, prompt: str, options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        generate(pipeline, tiny_concept(pipeline), prompt, **FAST, **options)
    assert "V*" not in pipeline.tokenizer.get_vocab()


def test_two_cats_of_one_name_are_not_drawn(pipeline: Pipeline) -> None:
    with pytest.raises(MaskError, match="twice, for a cat and for another cat"):
        generate(pipeline, [tiny_concept(pipeline), tiny_concept(pipeline, seed=2)], "a V* cat")


def requests_of(pipeline: Pipeline) -> list[Request]:
    """Ask for nine pictures, in two batches, of six sets of concepts; four call theirs V*."""
    cat, dog = tiny_concept(pipeline), tiny_concept(pipeline, noun="dog", seed=2)
    jar, cup = (tiny_concept(pipeline, "V*2", noun, seed=3) for noun in ("jar", "cup"))
    plain = tiny_concept(pipeline, "zorb", "cup", seed=4)
    return [
        Request("a V* cat in the snow", cat, seed=1),
        Request("a V* dog in the snow", dog, seed=1),
        Request("a V* cat", cat, [0.4], seed=2),
        Request("a V* cat and a V*2 jar", [cat, jar], seed=3),
        Request("a V* cat and a V*2 jar", [cat | jar], seed=3),
        Request("a V* cat and a V*2 cup", [cat, cup], [1, 0.3], seed=4),
        Request("a V* cat in the snow", seed=1),
        Request("a zorb zorbzorb", plain, seed=5),
        Request("a V* dog", dog, seed=6),
    ]


def test_requests_in_one_batch_are_drawn_as_alone(pipeline: Pipeline) -> None:
    requests, told = requests_of(pipeline), []
    before = {name: w.clone() for name, w in pipeline.unet.state_dict().items()}
    vocabulary = dict(pipeline.tokenizer.get_vocab())
    found = generate(pipeline, requests, progress=lambda *at: told.append(at), **FAST)
    assert told == [("draw", 8, 9), ("draw", 9, 9)]
    assert all(torch.equal(before[n], w) for n, w in pipeline.unet.state_dict().items())
    assert not any("forward" in vars(module) for module in pipeline.unet.modules())
    assert pipeline.tokenizer.get_vocab() == vocabulary
    alone = []
    for each in requests:
        own = {"strengths": each.strengths, "seeds": [each.seed]}
        alone += generate(pipeline, each.concepts, each.prompt, **own, **FAST)
    assert [far(*pair) <= 1 for pair in zip(found, alone, strict=True)] == [True] * 9
    assert far(found[0], found[1]) > 1
    assert far(found[0], found[6]) > 1
    assert far(found[4], found[3]) <= 1


def test_requests_of_long_prompts_are_drawn_as_alone(pipeline: Pipeline) -> None:
    cat, dog = tiny_concept(pipeline), tiny_concept(pipeline, noun="dog", seed=2)
    said = [
        "a V* cat",
        "a V* dog",
        f"a V* cat {'in the snow ' * 8}",
        f"{'red ' * 20} V* dog",
        "a V* dog",
    ]
    requests = [Request(each, (cat, dog)["dog" in each], seed=k) for k, each in enumerate(said)]
    for picture, each in zip(generate(pipeline, requests, **FAST), requests, strict=True):
        (alone,) = generate(pipeline, each.concepts, each.prompt, seeds=[each.seed], **FAST)
        assert far(picture, alone) <= 1


def test_requests_of_xl_are_drawn_as_alone() -> None:
    pipeline = tiny_pipeline(xl=True)
    requests = requests_of(pipeline)[:2]
    for picture, each in zip(generate(pipeline, requests, **FAST), requests, strict=True):
        (alone,) = generate(pipeline, each.concepts, each.prompt, seeds=[each.seed], **FAST)
        assert far(picture, alone) <= 1


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_requests_go_with_and_without_guidance_and_over_a_photo(
    pipeline: Pipeline, guidance: float
) -> None:
    requests = requests_of(pipeline)[:3]
    photo = Image.effect_noise((32, 32), 99)
    how = {**FAST, "guidance_scale": guidance, "image": photo, "negative_prompt": "red"}
    found = generate(pipeline, requests, **how)
    for picture, each in zip(found, requests, strict=True):
        own = {"strengths": each.strengths, "seeds": [each.seed]}
        (alone,) = generate(pipeline, each.concepts, each.prompt, **own, **how)
        assert far(picture, alone) <= 1


def test_a_compiled_model_draws_requests_one_by_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def kept(pipeline: Pipeline, prompts: list[str], **_: object) -> list[Image.Image]:
        calls.append(len(prompts))
        return [Image.new("RGB", (8, 8))] * len(prompts)

    monkeypatch.setattr("cones.drawing.sample", kept)
    generate(pipeline, requests_of(pipeline))
    pipeline.unet.mid_block.compile()
    generate(pipeline, requests_of(pipeline)[:2])
    pipeline.unet.mid_block._compiled_call_impl = None
    pipeline.unet = torch.compile(pipeline.unet)
    generate(pipeline, requests_of(pipeline)[:2])
    assert calls == [8, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a V*cat", {}, r"found 'V\*' glued to a word in 'a V\*cat'"),
        ("a V* cat", {"negative_prompt": "V* dog"}, "in the negative prompt of several"),
        ("a V* cat", {"negative_prompt": "<lora:bad:1>"}, "<lora:bad:1>"),
    ],
)
def test_requests_are_all_checked_before_the_first_is_drawn(
    pipeline: Pipeline,
    prompt: str,
    options: dict,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cones.drawing.sample", None)
    first, *_ = requests_of(pipeline)
    with pytest.raises(PromptError, match=message):
        generate(pipeline, [first, Request(prompt, first.concepts)], **options)


def test_requests_are_refused_as_concepts_are(pipeline: Pipeline) -> None:
    cat, other = tiny_concept(pipeline), tiny_concept(pipeline, seed=2)
    with pytest.raises(MaskError, match="twice, for a cat and for another cat"):
        generate(pipeline, [Request("a V* cat", [cat, other])])
    with pytest.raises(MaskError, match="found 2 strengths"):
        generate(pipeline, [Request("a V* cat", cat, [1, 1])])
    for odd in (cat, [cat], [Request("a"), cat]):
        with pytest.raises(PromptError, match="concepts without a prompt"):
            generate(pipeline, odd)
    with pytest.raises(PromptError, match="requests with one"):
        generate(pipeline, [Request("a")], "a cat")
    assert generate(pipeline, []) == []


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Keep the rows and captions of every sheet."""
    kept: list[tuple] = []
    whole = drawing.sheet
    monkeypatch.setattr(drawing, "sheet", lambda *parts: kept.append(parts) or whole(*parts))
    return kept


def test_controls_differ_in_the_weights_only(pipeline: Pipeline, shown: list[tuple]) -> None:
    concept, calls, prompts = tiny_concept(pipeline), [], ["a V* cat", "a V* dog"]
    drawn = {"seeds": [3, 4], **FAST}
    compare(pipeline, concept, prompts, **drawn, progress=lambda *at: calls.append(at))
    ((rows, captions),) = shown
    assert list(rows) == [UNTOUCHED, RANDOM, CONCEPT]
    assert captions == ["a V* cat"] * 2 + ["a V* dog"] * 2
    assert calls == [(row, 4, 4) for row in rows]
    shut = generate(pipeline, concept, prompts, **drawn)
    untouched = generate(pipeline, concept, prompts, strengths=[0], **drawn)
    for row, expected in ((UNTOUCHED, untouched), (CONCEPT, shut)):
        assert all(far(a, b) <= 1 for a, b in zip(rows[row], expected, strict=True))
    assert all(far(a, b) > 1 for a, b in zip(rows[RANDOM], untouched, strict=True))
    assert all(far(a, b) > 1 for a, b in zip(rows[RANDOM], shut, strict=True))


def test_photos_stand_on_top(pipeline: Pipeline, shown: list[tuple]) -> None:
    concept = tiny_concept(pipeline)
    photos = [Image.new("RGB", (40, 50), (0, 128, 255))] * 2
    compare(pipeline, concept, "a V* cat", photos=photos, num_inference_steps=1)
    rows, _ = shown[-1]
    assert list(rows) == [PHOTOS, UNTOUCHED, RANDOM, CONCEPT]
    assert {photo.getpixel((0, 0)) for photo in rows[PHOTOS]} == {(0, 128, 255)}
    assert [photo.size for photo in rows[PHOTOS]] == [(32, 32), (32, 32)]


def test_the_random_control_has_the_density_of_every_layer(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept, seen = tiny_concept(pipeline), []

    def counted(pipeline: Pipeline, prompts: list[str], **named: object) -> list[Image.Image]:
        live = model_for(pipeline).weights()
        seen.append({name: int((weight == 0).sum()) for name, weight in live.items()})
        return [Image.new("RGB", (8, 8))] * len(prompts)

    monkeypatch.setattr("cones.drawing.sample", counted)
    compare(pipeline, concept, "a V* cat")
    assert sum(seen[0].values()) == 0
    assert seen[1] == seen[2]
    assert sum(seen[1].values()) == len(concept.mask)


def test_a_sheet_shows_every_picture_under_its_row() -> None:
    rows = {
        name: [Image.new("RGB", (128, 128), colour)] * count
        for name, colour, count in (("photos", "red", 3), ("shut", "blue", 2))
    }
    page = sheet(rows, ["a V* cat on the grass, seen from far away"] * 2)
    colours = page.convert("RGB").getcolors(page.width * page.height)
    count = {colour: number for number, colour in colours}
    assert count[(255, 0, 0)] == 3 * 128**2
    assert count[(0, 0, 255)] == 2 * 128**2
    assert np.asarray(page.crop((0, page.height - 40, page.width, page.height))).min() < 128
    assert page.width < 3 * 128 + 64


def test_pictures_carry_how_they_were_drawn(tmp_path: Path) -> None:
    record = {
        "prompt": "a V* cat: «été»",
        "negative_prompt": "red",
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "seed": 3,
        "model": "me/tiny",
        "concepts": ["cat.safetensors"],
    }
    image, umask = Image.new("RGB", (8, 16), "red"), os.umask(0o022)
    os.umask(umask)
    save_png(image, tmp_path / "new" / "a.png", record)
    assert (tmp_path / "new" / "a.png").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "new" / "a.png").read_bytes() == png_bytes(image, record)
    assert read_record(tmp_path / "new" / "a.png") == record
    with Image.open(tmp_path / "new" / "a.png") as found:
        assert far(found, image) == 0
        assert found.text["parameters"].splitlines() == [
            "a V* cat: «été»",
            "Negative prompt: red",
            "Steps: 25, CFG scale: 7.5, Seed: 3, Size: 8x16, Model: me/tiny",
        ]


def test_other_pictures_have_no_record(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("hello")
    for name in ("plain.png", "text.png", "nothing.png"):
        assert read_record(tmp_path / name) is None
