"""The whole chain, from nothing to a model that plain diffusers opens, at a thousandth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from experiments.metrics.examiner import Seen, SeenThing, load_examiner
from fakes import tiny_pipeline
from pretraining import examiner, quality, train
from pretraining.denoiser import drawn_by
from pretraining.loop import Work


@pytest.mark.slow
def test_one_command_makes_the_model_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, output, judge = tmp_path / "work", tmp_path / "model", tmp_path / "judge.safetensors"
    steps = [f"{stage}=2" for stage in ("autoencoder", "text", "examiner", "denoiser", "decoder")]
    train.main(work, output, judge, None, scale=0.001, stage=None, steps=steps)
    pipeline = StableDiffusionPipeline.from_pretrained(output)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {
        torch.float32
    }
    pictures = drawn_by(pipeline, ["a dog", "a dog"], num_inference_steps=2)
    (again,) = drawn_by(pipeline, ["a dog"], num_inference_steps=2)
    assert pictures[0].size == (128, 128)
    alike, other = (np.abs(np.subtract(again, p, dtype=float)).mean() for p in pictures)
    assert alike < 2 < other
    stored = load_file(output / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    assert "| denoiser | 2 |" in (output / "README.md").read_text()
    seen = load_examiner(judge).read(pictures)
    assert len(seen) == 2

    before = {path: path.stat().st_mtime_ns for path in (work / "pictures").iterdir()}
    train.main(work, output, judge, None, scale=0.001, stage=["world", "denoiser"], steps=steps)
    assert before == {path: path.stat().st_mtime_ns for path in (work / "pictures").iterdir()}
    assert json.loads((work / "denoiser" / "log.json").read_text())["step"] == 2

    new, steps = tmp_path / "new", ["examiner=2", "denoiser=1", "decoder=1"]
    train.main(new, tmp_path / "longer", judge, output, scale=0.001, stage=None, steps=steps)
    for part in ("text_encoder/model", "vae/diffusion_pytorch_model"):
        old, kept = (load_file(f / f"{part}.safetensors") for f in (output, tmp_path / "longer"))
        assert all(
            torch.allclose(old[key], kept[key], atol=2e-3) for key in old if "decoder" not in key
        )
    moved = load_file(tmp_path / "longer" / "unet" / "diffusion_pytorch_model.safetensors")
    change = [(moved[key].float() - stored[key].float()).abs().max().item() for key in stored]
    assert 0 < max(change) < 0.05  # begun where the saved one ended

    monkeypatch.setattr(
        quality, "drawn_by", lambda _, prompts, **more: len(prompts) * pictures[:1]
    )
    found = quality.figures(pipeline, load_examiner(judge), Work(new, 0.001), 4)
    assert set(found["limit"]) <= set(found)
    assert set(found["single"]) == set(found["limit"]["single"])


def thing(noun: str, main: str, second: str = "", pattern: str = "", x: int = 0) -> SeenThing:
    return SeenThing(noun, main, second, pattern, box=(x, 0, x, 9))


def test_answers_are_right_where_the_picture_shows_what_is_asked() -> None:
    asked = {"noun": "cat", "main": "red", "second": "blue", "pattern": ""}
    seen = Seen("snow", (thing("cat", "red", "pink", "dots"), thing("dog", "red", x=9)))
    assert examiner.answers([asked], "road", None, seen) == {
        "noun": True, "main": True, "second": False, "place": False, "one_thing": False,
    }  # fmt: skip
    assert "place" not in examiner.answers([asked], "", None, seen)


def test_of_two_things_colours_and_sides_count_where_both_are_seen() -> None:
    cat, dog = ({"noun": noun, "main": main} for noun, main in (("cat", "red"), ("dog", "pink")))
    left = Seen("snow", (thing("cat", "red"), thing("dog", "red", x=9)))
    assert examiner.answers([cat, dog], "", "to the left of", left) == {
        "both_nouns": True, "both_colours": False, "side": True,
    }  # fmt: skip
    assert not examiner.answers([cat, dog], "", "to the right of", left)["side"]
    alone = Seen("snow", (thing("cat", "red"),))
    assert examiner.answers([cat, dog], "", "and", alone) == {"both_nouns": False}
    silent = [cat | {"main": ""}, dog | {"main": "red"}]
    assert examiner.answers(silent, "", "and", left) == {"both_nouns": True, "both_colours": True}


def test_shares_count_only_pictures_that_are_asked() -> None:
    asked = [([{"noun": "cat", "main": main, "second": "", "pattern": ""}], "", None)
             for main in ("red", "")]  # fmt: skip
    seen = [Seen("snow", (thing("cat", "red"),)), Seen("snow", (thing("dog", "red"),))]
    assert examiner.judged(asked, seen) == {"noun": 0.5, "colour": 1.0, "one_thing": 1.0}


def test_each_picture_serves_one_figure() -> None:
    one, named = {"name": None}, {"name": "kizun"}
    kinds = [
        ({"things": [one], "light": None, "relation": None}, "single"),
        ({"things": [one], "light": "dim", "relation": None}, ""),
        ({"things": [named], "light": None, "relation": None}, "names"),
        ({"things": [one, one], "light": None, "relation": "to the right of"}, "two"),
        ({"things": [one, one], "light": None, "relation": "and"}, ""),
        ({"things": [one, one, one], "light": None, "relation": "and"}, ""),
    ]
    assert [quality.kind_of(row) for row, _ in kinds] == [kind for _, kind in kinds]


def test_an_individual_is_alike_if_noun_and_both_colours_are() -> None:
    cat = {"noun": "cat", "main": "red", "second": "blue", "pattern": "dots"}
    seen = [thing("cat", "red", "blue"), thing("cat", "red", "pink")]
    rows = [{"things": [cat]}] * 2
    assert quality.alike(rows, [Seen("snow", (one,)) for one in seen]) == 0.5


def test_sheets_are_labelled_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    picture = Image.fromarray(noise).resize((16, 16)).resize((128, 128))
    monkeypatch.setattr(quality, "drawn_by", lambda _, prompts: len(prompts) * [picture])
    quality.sheets(tiny_pipeline(), tmp_path)
    for name, rows in (("nouns", 16), ("colours", 13)):
        path = tmp_path / f"model_{name}.jpg"
        assert path.stat().st_size < 1e6
        with Image.open(path) as page:
            assert page.width >= 8 * 128
            assert page.height >= rows * 128
