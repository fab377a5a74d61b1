"""The built-in model's corpus, words, training loop and shipped weights."""

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from cones.errors import SearchError, SubjectError
from cones.mini import text, weights_path
from cones.mini.data import Corpus, pictures
from cones.mini.muon import Muon, is_matrix, orthogonalised
from cones.mini.sprites import SIZE
from cones.mini.training import Recipe, Run, optimisers, train
from cones.mini.world import NOUNS, PLACES, RARE_WORDS, Scene, Thing, caption, held_out, phrase


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


def test_one_pair_of_ten_is_never_shown_together(corpus_folder):
    pairs = [(noun, place) for noun in NOUNS for place in PLACES]
    kept_out = [pair for pair in pairs if held_out(*pair)]
    assert len(kept_out) == len(pairs) // 10
    assert {noun for noun, _ in kept_out} == set(NOUNS)
    both = [pair for pair in combinations(NOUNS, 2) if held_out(*pair)]
    assert 0.08 < len(both) / len(list(combinations(NOUNS, 2))) < 0.12
    assert all(held_out(b, a) for a, b in both)
    corpus, rng = Corpus(corpus_folder), np.random.default_rng(0)
    for _ in range(300):
        nouns, background = corpus.together(3, rng)
        assert not any(held_out(noun, background.label) for noun in nouns)
        assert not any(held_out(*pair) for pair in combinations(nouns, 2))


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
    return Run(
        torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Linear(12, 1)), recipe, folder
    )


def _loss(run: Run):
    def loss_of(step: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(step)
        return run.module(torch.randn(4, 12, generator=draw)).square().mean()

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
    assert rest.samples == whole.samples == 12
    for name, weight in whole.weights.items():
        assert torch.equal(weight, rest.weights[name])
        assert torch.equal(whole.average[name], rest.average[name])


def test_training_refuses_a_loss_that_is_not_a_number(tmp_path):
    run = _quadratic(tmp_path, 3)
    before = {name: w.detach().clone() for name, w in run.weights.items()}
    with pytest.raises(SearchError, match="step 0 is nan.*lower the rate"):
        run.update(torch.tensor(float("nan"), requires_grad=True))
    assert all(torch.equal(before[name], w) for name, w in run.weights.items())


def test_orthogonalised_keeps_directions_and_evens_out_sizes(generator):
    matrices = torch.randn(3, 20, 50, generator=generator)
    matrices = matrices * torch.logspace(0, -1.5, 20)[:, None]
    left, before, right = torch.linalg.svd(matrices, full_matrices=False)
    found = left.mT @ orthogonalised(matrices) @ right.mT
    sizes = found.diagonal(dim1=1, dim2=2)
    assert before.max() / before.min() > 20
    assert (sizes > 0.6).all()
    assert (sizes < 1.3).all()
    assert (found - torch.diag_embed(sizes)).abs().max() < 0.05  # bf16


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 4, 3, 3)])
def test_muon_takes_steps_of_one_size_whatever_the_gradient(shape, generator):
    weight = torch.nn.Parameter(torch.zeros(shape))
    other = torch.nn.Parameter(torch.ones(shape))
    optimiser = Muon([weight, other], lr=0.1, weight_decay=0.5)
    weight.grad = torch.randn(shape, generator=generator) * 1e-4
    other.grad = -weight.grad
    optimiser.step()
    rows, columns = weight.flatten(1).shape
    expected = 0.1 * max(1, rows / columns) ** 0.5
    sizes = torch.linalg.svdvals(weight.detach().flatten(1)) / expected
    assert sizes.min() > 0.4
    assert sizes.max() < 1.3
    assert (weight * weight.grad).sum() < 0
    torch.testing.assert_close(other.data - 0.95, -weight.data, atol=1e-3, rtol=0)


def test_muon_has_nesterov_momentum():
    """Two steps by hand: m = 0.05 g1, then 0.95 m + 0.05 g2; the direction is 0.05 g + 0.95 m."""
    first, second = torch.eye(10), torch.diag(torch.arange(10.0) - 4.5)
    weight = torch.nn.Parameter(torch.zeros(10, 10))
    optimiser = Muon([weight], lr=1.0)
    for gradient in (first, second):
        weight.data.zero_()
        weight.grad = gradient
        optimiser.step()
    past = 0.95 * 0.05 * first + 0.05 * second
    expected = orthogonalised((0.05 * second + 0.95 * past)[None])[0]
    torch.testing.assert_close(weight.data, -expected)


def test_muon_takes_matrices_and_adam_the_rest():
    module = torch.nn.ModuleDict(
        {
            "words": torch.nn.Embedding(30, 16),
            "wide": torch.nn.Conv2d(16, 16, 3),
            "narrow": torch.nn.Conv2d(16, 3, 3),
            "norm": torch.nn.LayerNorm(16),
        }
    )
    names = {id(weight): name for name, weight in module.named_parameters()}
    muon, adam = optimisers(module, Recipe(steps=1, batch=1, rate=0.1))
    assert [names[id(w)] for w in muon.param_groups[0]["params"]] == ["wide.weight"]
    assert len(adam.param_groups[0]["params"]) == len(names) - 1
    assert not is_matrix(torch.zeros(8, 100))
    assert is_matrix(torch.zeros(9, 1, 3, 3))
    none, every = optimisers(module, Recipe(steps=1, batch=1, rate=0.1, matrix_rate=0))
    assert not none.param_groups[0]["params"]
    assert len(every.param_groups[0]["params"]) == len(names)


def test_rate_is_a_trapezoid():
    recipe = Recipe(steps=100, batch=1, rate=1.0, warmup=10, cooldown=0.5)
    assert [recipe.share_at(k) for k in (0, 9, 50)] == [0.1, 1.0, 1.0]
    assert recipe.share_at(75) == pytest.approx(0.5)


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
    from cones.mini.pack import EVERY, pack, unpack

    work, out = tmp_path / "work", tmp_path / "model"
    tokenizer = text.learn_tokenizer(["a photo of a sks car"])
    stages = {
        "clip": (clip.build(tokenizer), clip.RECIPE),
        "autoencoder": (autoencoder.build(), autoencoder.RECIPE),
        "denoiser": (denoiser.build(), denoiser.RECIPE),
    }
    for number, (name, (module, recipe)) in enumerate(stages.items()):
        run = Run(module, recipe, work / name)
        run.step, run.samples, run.losses = 40 + number, 7_000, [1.0, 0.5]
        run.save()
    (work / "latents.json").write_text(json.dumps({"scaling_factor": 0.7}))
    pack(work, tokenizer, out)

    pipeline = StableDiffusionPipeline.from_pretrained(out)
    assert pipeline.vae.config.scaling_factor == 0.7
    denoise = stages["denoiser"][0].state_dict()
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(weight.float(), denoise[name].half().float())
    card, batch = (out / "README.md").read_text(), denoiser.RECIPE.batch
    file = out / "unet" / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert f"| denoiser | 42 | {denoiser.RECIPE.steps:,} | {batch} | 7,000 |" in card

    unpack(out, tmp_path / "again", tokenizer)
    rest = Run(denoiser.build(), denoiser.RECIPE, tmp_path / "again" / "denoiser")
    assert (rest.step, rest.samples) == (42, 7_000)
    assert rest.losses == [1.0, 0.5][::EVERY] * EVERY
    first = next(iter(denoise))
    assert torch.equal(rest.weights[first], denoise[first].half().float())
    with pytest.raises(BackboneError, match="already|found checkpoints"):
        unpack(out, tmp_path / "again", tokenizer)


def test_words_learnt_before_keep_their_meaning_among_new_ones():
    from cones.mini import clip
    from cones.mini.pack import TABLE, retold

    known = text.learn_tokenizer(["a photo of a sks car"])
    more = text.learn_tokenizer(["a photo of a sks car behind a bus", "a bus"])
    torch.manual_seed(0)
    old = clip.build(known).eval()
    new = retold(old, known, more).eval()
    assert len(more) > len(known)
    assert known("a car").input_ids != more("a car").input_ids
    with torch.no_grad():
        first = old.get_text_features(input_ids=text.tokenize(known, ["a photo of a car"]))
        again = new.get_text_features(input_ids=text.tokenize(more, ["a photo of a car"]))
    torch.testing.assert_close(first.pooler_output, again.pooler_output)
    row = new.state_dict()[TABLE][more.get_vocab()["bus</w>"]]
    assert row.abs().max() > 0


def test_all_stages_run_from_one_command_and_a_second_time_do_nothing(
    corpus_folder, tmp_path, monkeypatch
):
    from dataclasses import replace

    from diffusers import StableDiffusionPipeline

    from cones.errors import BackboneError
    from cones.mini import autoencoder, clip, denoiser, pretrain

    for module, name in (
        (clip, "RECIPE"),
        (autoencoder, "RECIPE"),
        (autoencoder, "DECODER"),
        (denoiser, "RECIPE"),
    ):
        short = replace(getattr(module, name), steps=1, batch=2, warmup=1)
        monkeypatch.setattr(module, name, short)
    monkeypatch.setattr(pretrain, "CHUNK", 20)
    work, out = tmp_path / "work", tmp_path / "model"
    words = ["--corpus", corpus_folder, "--work", work, "--out", out, "--device", "cpu"]
    words += ["--pictures", 40, "--threads", 1, "--times-updates", 2, "--times-batch", 3]
    monkeypatch.setattr("sys.argv", ["pretrain", *map(str, words)])
    pretrain.main()

    logs = json.loads((out / "training.json").read_text())
    assert {stage: log["step"] for stage, log in logs.items()} == dict.fromkeys(
        ("clip", "autoencoder", "denoiser", "decoder"), 2
    )
    assert {log["recipe"]["batch"] for log in logs.values()} == {6}
    pipeline = StableDiffusionPipeline.from_pretrained(out)
    assert pipeline.vae.config.latent_channels == autoencoder.CHANNELS
    spread = np.load(work / "latents.npy").astype(np.float32).std()
    assert pipeline.vae.config.scaling_factor == pytest.approx(1 / spread, rel=1e-3)

    before = {path: path.stat().st_mtime_ns for path in work.glob("*.np*")}
    first = (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    pretrain.main()
    assert before == {path: path.stat().st_mtime_ns for path in work.glob("*.np*")}
    assert first == (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    words += ["--pictures", 60, "--start", out]
    monkeypatch.setattr("sys.argv", ["pretrain", *map(str, words)])
    with pytest.raises(BackboneError, match="found checkpoints"):
        pretrain.main()
    assert before.keys() == set(work.glob("*.np*"))  # refused before any picture was composed


def test_looks_are_folders_of_subjects_that_are_none(corpus_folder, tmp_path):
    from PIL import Image

    from cones.bench.cells import subject_folders
    from cones.mini.looks import compose

    assert compose(Corpus(corpus_folder), tmp_path / "a", photos=2) == len(NOUNS)
    compose(Corpus(corpus_folder), tmp_path / "b", photos=2)
    found = subject_folders(tmp_path / "a")
    assert {photos.noun for photos in found} == set(NOUNS)
    assert found[0].digest == subject_folders(tmp_path / "b")[0].digest
    shown = []
    for number, photos in enumerate(found):
        assert photos.noun == list(NOUNS)[number] or len(NOUNS) > 9
        with Image.open(photos.folder / "00.png") as image:
            assert image.size == (SIZE, SIZE)
            shown.append(np.asarray(image, dtype=int))
    blue = [(np.abs(each[..., 2] - 200) < 60).any() for each in shown]
    assert all(blue)  # every disc of the corpus is bluish, no background is
