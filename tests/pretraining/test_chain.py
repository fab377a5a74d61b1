"""The whole chain, from nothing to a model that plain diffusers opens, at a thousandth."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from experiments.metrics import examiner as networks
from experiments.metrics.examiner import load_examiner
from fakes import tiny_pipeline
from pretraining import quality, save, train
from pretraining.world.scenes import held_out_pair, held_out_place


@pytest.mark.slow
def test_one_command_makes_the_model_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    work, output, judge = tmp_path / "work", tmp_path / "model", tmp_path / "judge.safetensors"
    steps = [f"{stage}=2" for stage in ("autoencoder", "text", "examiner", "denoiser", "decoder")]
    train.main(work, output, judge, None, scale=0.001, stage=None, steps=steps)
    pipeline = StableDiffusionPipeline.from_pretrained(output)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {
        torch.float32
    }
    pictures = save.draw(pipeline, ["a cat", "a dog"], [0, 1], num_inference_steps=2)
    again = save.draw(pipeline, ["a dog"], [1], num_inference_steps=2)
    assert pictures.shape == (2, 3, 128, 128)
    assert torch.allclose(pictures[1], again[0], atol=0.05)
    stored = load_file(output / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    assert "| denoiser | 2 |" in (output / "README.md").read_text()
    seen = load_examiner(judge).see(pictures)
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


def test_prompts_of_quality_show_what_they_say() -> None:
    asked = quality.single(64)
    assert len({ask.nouns for ask in asked}) == 16
    assert not any(held_out_place(ask.nouns[0], ask.place) for ask in asked)
    assert all(word in ask.prompt for ask in asked for word in (ask.nouns[0], ask.mains[0]))
    assert sum(bool(ask.second) for ask in asked) == 32
    apart = quality.single(16, held_out=True)
    assert all(held_out_place(ask.nouns[0], ask.place) for ask in apart)
    assert all(ask.nouns[0] != ask.nouns[1] for ask in quality.double(20))
    assert not any(held_out_pair(*ask.nouns) for ask in quality.double(20))


def test_quality_counts_right_answers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def things(*words: tuple[str, str, str, str, float]) -> tuple[networks.SeenThing, ...]:
        return tuple(networks.SeenThing(*word[:4], box=(word[4], 0, word[4], 9)) for word in words)

    told = [
        quality.Asked("", "snow", ("cat",), ("red",), "blue", "stripes"),
        quality.Asked("", "snow", ("dog",), ("red",)),
    ]
    seen = [
        networks.Seen("snow", things(("cat", "red", "blue", "dots", 0))),
        networks.Seen(
            "road", things(("dog", "pink", "red", "dots", 0), ("cat", "red", "", "", 1))
        ),
    ]
    assert quality.singles(told, seen) == {
        "noun": 1.0, "colour": 0.5, "second": 1.0, "pattern": 0.0, "place": 0.5, "one_thing": 0.5,
    }  # fmt: skip
    pair = quality.Asked("", "snow", ("cat", "dog"), ("red", "pink"))
    assert quality.doubles([pair, pair], [seen[1], seen[0]]) == {
        "both_nouns": 0.5, "both_colours": 1.0, "side": 0.0,
    }  # fmt: skip
    shown = seen[0]
    monkeypatch.setattr(quality, "read", lambda _, judge, prompts, *more: [shown] * len(prompts))
    judge = networks.Examiner(networks.Finder(), networks.Reader(), {"noun": 0.9})
    rows = quality.figures(tiny_pipeline(), judge, 64, {quality.single(1)[0].prompt})
    assert rows["prompts"] == 64
    assert rows["single"]["noun"] == pytest.approx(1 / 16, abs=0.02)
    assert rows["names"]["own"] <= 1 / 16
    assert rows["examiner"] == {"noun": 0.9}
