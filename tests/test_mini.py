"""The built-in model's corpus, words, training loop and shipped weights."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from cones.errors import SearchError, SubjectError
from cones.mini import text, weights_path
from cones.mini.data import SIZE, Corpus, pictures
from cones.mini.training import Recipe, Run, train
from cones.mini.world import NOUNS, PLACES, RARE_WORDS, Scene, Thing, caption, phrase


def _add(archive: tarfile.TarFile, name: str, image: Image.Image) -> None:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    entry = tarfile.TarInfo(name)
    entry.size = stream.tell()
    stream.seek(0)
    archive.addfile(entry, stream)


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory) -> Path:
    """A corpus of coloured discs: one photo-like look per noun, one background per place."""
    folder = tmp_path_factory.mktemp("corpus")
    sprites, places = [], []
    with tarfile.open(folder / "s.tar", "w") as archive:
        for number, noun in enumerate([*NOUNS, "zeppelin"]):
            for split in ("train", "subject"):
                image = Image.new("RGBA", (40, 60))
                ImageDraw.Draw(image).ellipse((2, 2, 38, 58), (10 * number, 99, 200, 255))
                name = f"{split}{number}.png"
                _add(archive, name, image)
                row = {"shard": "s.tar", "file": name, "class": noun, "name": noun}
                row |= {"colour": None, "style": "photo", "model": name, "split": split}
                sprites.append(row)
    with tarfile.open(folder / "b.tar", "w") as archive:
        for label in [*PLACES, "moon base"]:
            _add(archive, f"{label}.png", Image.new("RGB", (128, 128), (120, 180, 90)))
            row = {"shard": "b.tar", "file": f"{label}.png", "label": label, "split": "train"}
            row["kind"] = "hdr" if len(places) % 2 else "procedural"
            places.append(row | {"ground_from": 0.6, "ground_to": 0.95})
    for name, rows in (("sprites", sprites), ("backgrounds", places)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_corpus_keeps_subjects_and_unknown_things_out(corpus_folder):
    corpus = Corpus(corpus_folder)
    assert set(corpus.sprites) == set(NOUNS)
    assert set().union(*corpus.backgrounds.values()) == set(PLACES)
    models = {
        sprite.model
        for kinds in corpus.sprites.values()
        for looks in kinds.values()
        for views in looks.values()
        for sprite in views
    }
    assert all(model.startswith("train") for model in models)


def test_a_picture_depends_on_its_number_and_seed_alone(corpus_folder):
    corpus = Corpus(corpus_folder)
    images, captions = pictures(corpus, range(5, 8), 3)
    again, said = corpus.picture(6, 3)
    assert images.shape == (3, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[1], again)
    assert captions[1] == said
    assert corpus.picture(6, 4)[1] != said or (corpus.picture(6, 4)[0] != again).any()


def test_missing_corpus_is_named(tmp_path):
    with pytest.raises(SubjectError, match="sprites.jsonl is missing.*--corpus"):
        Corpus(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_caption_names_every_thing_left_to_right(count):
    nouns = ("car", "ball", "cup")[:count]
    scene = Scene(tuple(Thing(n, n, None) for n in nouns), "to the left of", "beach", False)
    words = {"car": ("car", "automobile"), "ball": ("ball",), "cup": ("cup", "mug")}
    for seed in range(30):
        said = caption(scene, np.random.default_rng(seed))
        found = [min(i for i in (said.find(w) for w in words[n]) if i >= 0) for n in nouns]
        assert found == sorted(found)


def test_phrase_uses_colour_article_and_rare_words():
    said = {phrase(Thing("cup", "cup", "orange"), np.random.default_rng(s)) for s in range(400)}
    assert {"an orange cup", "a cup", "an orange mug"} <= said
    assert any(word in RARE_WORDS for text_ in said for word in text_.split())
    assert all(s.startswith("an ") == (s.split()[1][0] in "aeiou") for s in said)


def test_tokenizer_knows_words_and_falls_back_to_bytes(tmp_path):
    captions = ["a photo of a sks teddy bear on a beach", "a red car, a cup"] * 9
    tokenizer = text.learn_tokenizer(captions)
    assert tokenizer.tokenize("a Sks car, beach") == [
        "a</w>",
        "sks</w>",
        "car</w>" if "car</w>" in tokenizer.get_vocab() else "car,</w>",
        *tokenizer.tokenize(", beach"),
    ]
    assert tokenizer.decode(tokenizer("zebra é").input_ids, skip_special_tokens=True).split() == [
        "zebra",
        "é",
    ]
    tokens = text.tokenize(tokenizer, ["a car", ""])
    assert tokens.shape == (2, text.LENGTH)
    assert tokens[0, 0] == tokenizer.bos_token_id
    assert (tokens[1, 1:] == tokenizer.eos_token_id).all()
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again("a red zebra").input_ids == tokenizer("a red zebra").input_ids


def _quadratic(folder: Path, steps: int) -> Run:
    torch.manual_seed(0)
    recipe = Recipe(steps=steps, batch=1, rate=0.1, warmup=2)
    return Run(torch.nn.Linear(3, 1), recipe, folder)


def _loss(run: Run):
    def loss_of(step: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(step)
        return run.module(torch.randn(4, 3, generator=draw)).square().mean()

    return loss_of


def test_interrupted_training_equals_uninterrupted(tmp_path):
    whole = _quadratic(tmp_path / "whole", 12)
    assert train(whole, _loss(whole), label="t")
    part = _quadratic(tmp_path / "part", 12)
    for step in range(5):
        part.update(_loss(part)(step))
    part.save()
    rest = _quadratic(tmp_path / "part", 12)
    assert rest.step == 5
    assert train(rest, _loss(rest), label="t")
    assert rest.losses == whole.losses
    for name, weight in whole.weights.items():
        assert torch.equal(weight, rest.weights[name])
        assert torch.equal(whole.average[name], rest.average[name])


def test_training_refuses_a_loss_that_is_not_a_number(tmp_path):
    run = _quadratic(tmp_path, 3)
    before = {name: w.detach().clone() for name, w in run.weights.items()}
    with pytest.raises(SearchError, match="step 0 is nan.*lower the rate"):
        run.update(torch.tensor(float("nan"), requires_grad=True))
    assert all(torch.equal(before[name], w) for name, w in run.weights.items())


def test_rate_is_a_trapezoid():
    recipe = Recipe(steps=100, batch=1, rate=1.0, warmup=10, cooldown=0.5)
    assert [recipe.rate_at(k) for k in (0, 9, 50)] == [0.1, 1.0, 1.0]
    assert recipe.rate_at(75) == pytest.approx(0.5)


def test_shipped_weights_are_those_of_the_model_card():
    """The card names the file's hash; other weights need another card."""
    card = (weights_path() / "README.md").read_text()
    file = weights_path() / "unet" / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    size = sum(p.stat().st_size for p in weights_path().rglob("*") if p.is_file())
    assert size < 60e6


def test_packed_model_is_a_plain_pipeline_and_training_can_go_on_from_it(tmp_path):
    from diffusers import StableDiffusionPipeline

    from cones.errors import BackboneError
    from cones.mini import autoencoder, clip, denoiser
    from cones.mini.pack import pack, unpack

    work, out = tmp_path / "work", tmp_path / "model"
    tokenizer = text.learn_tokenizer(["a photo of a sks car"])
    stages = {
        "clip": (clip.build(tokenizer), clip.RECIPE),
        "autoencoder": (autoencoder.build(), autoencoder.RECIPE),
        "denoiser": (denoiser.build(), denoiser.RECIPE),
    }
    for number, (name, (module, recipe)) in enumerate(stages.items()):
        run = Run(module, recipe, work / name)
        run.step, run.losses = 40 + number, [1.0, 0.5]
        run.save()
    (work / "latents.json").write_text(json.dumps({"scaling_factor": 0.7}))
    pack(work, tokenizer, out)

    pipeline = StableDiffusionPipeline.from_pretrained(out)
    assert pipeline.vae.config.scaling_factor == 0.7
    denoise = stages["denoiser"][0].state_dict()
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(weight.float(), denoise[name].half().float())
    card = (out / "README.md").read_text()
    file = out / "unet" / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert f"| denoiser | 42 | {denoiser.RECIPE.steps:,} | 64 | 2,688 |" in card

    unpack(out, tmp_path / "again")
    rest = Run(denoiser.build(), denoiser.RECIPE, tmp_path / "again" / "denoiser")
    assert rest.step == 42
    first = next(iter(denoise))
    assert torch.equal(rest.weights[first], denoise[first].half().float())
    with pytest.raises(BackboneError, match="already|found checkpoints"):
        unpack(out, tmp_path / "again")
