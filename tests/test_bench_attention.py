"""Composed pictures have the mask they claim; the benchmark measures what the network attends."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from cones.attention import record_attention, share_inside, token_positions, told_apart
from cones.backbones import backbone_for
from cones.bench import attention_page
from cones.bench.attention import Looks, attention_figures, attention_summary
from cones.bench.scenes import captions, compose
from cones.cli import app
from cones.errors import SubjectError
from cones.find import Settings
from cones.intervention import shut
from conftest import _add, make_encoder, make_tokenizer
from fakes import make_concept

ROOT = Path(__file__).parent.parent
RED, BLUE = (200, 40, 20), (10, 40, 190)
LOOKS = Looks(count=2, levels=(0.2, 0.6))


@pytest.fixture
def corpus(corpus_folder, tmp_path):
    """Add two subjects with a red view, which a photo shows, and a blue one."""
    folder = tmp_path / "corpus"
    shutil.copytree(corpus_folder, folder)
    rows = (folder / "sprites.jsonl").read_text().splitlines()
    with tarfile.open(folder / "mine.tar", "w") as archive:
        for name in ("ann", "bob"):
            for colour, paint in (("red", RED), ("blue", BLUE)):
                view = Image.new("RGBA", (48, 48))
                ImageDraw.Draw(view).rectangle((0, 0, 47, 47), (*paint, 255))
                _add(archive, f"{name}_{colour}.png", view)
                row = {"shard": "mine.tar", "file": f"{name}_{colour}.png", "class": "cat"}
                row |= {"name": name, "colour": None, "model": name, "split": "subject"}
                rows.append(json.dumps(row))
            told = {"sprites": [f"{name}_red.png", f"{name}_blue.png"]}
            told["photos"] = [{"sprite": f"{name}_red.png"}]
            (folder / "subjects" / name).mkdir(parents=True)
            (folder / "subjects" / name / "subject.json").write_text(json.dumps(told))
    (folder / "sprites.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def photos(tmp_path):
    for name, noun in (("ann", "cat"), ("bob", "dog")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), (80, 90, 100)).save(folder / "00.png")
        (folder / "subject.json").write_text(json.dumps({"noun": noun}))
    return tmp_path / "photos"


@pytest.fixture
def pipeline(sd1, fresh):
    """Give a pipeline that reads longer prompts."""
    copied = fresh(sd1)
    tokenizer = make_tokenizer(length=40)
    torch.manual_seed(0)
    copied.register_modules(tokenizer=tokenizer, text_encoder=make_encoder(tokenizer))
    return copied


class Finder:
    """Draw a mask from the noun; count the searches."""

    def __init__(self):
        self.found = {}

    def __call__(self, pipeline, subject, *, settings, cache_dir, state_dir):
        assert settings.density == 0.0132
        rows = torch.ones(1, 32)
        concept = make_concept(pipeline, noun=subject.noun, seed=len(self.found))
        (member,) = concept.members
        object.__setattr__(member, "embeddings", {"text_encoder": rows})
        self.found[subject.noun] = concept
        return concept


def test_the_mask_is_the_subject(corpus):
    scenes = compose(corpus, "ann", count=4)
    assert scenes.pixels.shape == (4, 3, 64, 64)
    blue = torch.tensor(BLUE) / 255
    for picture, inside in zip(scenes.pixels, scenes.inside, strict=True):
        assert 0.1 < inside.mean() < 0.8
        own = picture[:, inside == 1]
        light = own.mean(1) / blue
        assert (own - own.mean(1, keepdim=True)).abs().max() < 0.02  # one colour all over
        assert 0.75 < light[2] < 1.2
        assert own[2].mean() > own[0].mean() * 3  # blue: the red view is in the photos
        rows = torch.where((inside > 0).any(1))[0]
        above = picture[:, : rows[0]].flatten(1).T * 255
        near = (above - torch.tensor([120.0, 180.0, 90.0])).abs().max(1).values < 1.5
        assert near.float().mean() > 0.5 or rows[0] < 12  # background, but for shadows
        assert not bool((above[near] / 255 - blue).abs().sum(1).lt(0.1).any())


def test_a_scene_depends_on_its_number_and_the_seed_alone(corpus):
    many, one = (compose(corpus, "ann", count=count) for count in (3, 1))
    assert torch.equal(many.pixels[:1], one.pixels)
    assert torch.equal(many.inside[:1], one.inside)
    assert not torch.equal(compose(corpus, "ann", count=1, seed=1).inside, one.inside)
    large = compose(corpus, "ann", count=1, side=128)
    assert large.inside.shape == (1, 128, 128)
    assert large.inside.mean() == pytest.approx(float(one.inside.mean()), abs=0.01)


def test_prompts_are_all_different_and_say_the_place(corpus):
    said = captions(64)
    assert len({prompt for _, prompt in said}) == 64
    assert len({label for label, _ in said[:16]}) == 16
    assert all(label in prompt and prompt.count("{}") == 1 for label, prompt in said)
    assert compose(corpus, "bob", count=2).prompts == (
        "a {} on a beach",
        "a photo of a {} in a desert",
    )
    for count in (0, 65):
        with pytest.raises(SubjectError, match=f"found {count} pictures; expected 1 to 64"):
            captions(count)


def test_a_corpus_without_the_subject_is_refused(corpus, tmp_path):
    with pytest.raises(SubjectError, match="--corpus"):
        compose(corpus, "eve", count=1)
    with pytest.raises(SubjectError, match="--corpus"):
        compose(tmp_path / "nowhere", "ann", count=1)
    file = corpus / "subjects/ann/subject.json"
    file.write_text(
        json.dumps({"sprites": ["ann_red.png"], "photos": [{"sprite": "ann_red.png"}]})
    )
    with pytest.raises(SubjectError, match="found no view of ann"):
        compose(corpus, "ann", count=1)


def test_order_is_the_chance_that_a_marked_place_draws_more():
    g = torch.Generator().manual_seed(0)
    found = torch.randint(0, 5, (3, 4, 4), generator=g).float()
    inside = torch.rand(3, 4, 4, generator=g) < 0.4
    for k in range(3):
        pairs = [
            1.0 if a > b else 0.5 if a == b else 0.0
            for a in found[k][inside[k]].tolist()
            for b in found[k][~inside[k]].tolist()
        ]
        assert told_apart(found, inside)[k] == pytest.approx(sum(pairs) / len(pairs))
    faint = 1 + 1e-3 * inside.float()
    assert told_apart(faint, inside).tolist() == [1.0] * 3
    soft = torch.rand(3, 4, 4, generator=g)
    assert torch.allclose(told_apart(found.exp(), soft), told_apart(found, soft))
    assert torch.allclose(told_apart(torch.ones(3, 4, 4), soft), torch.full((3,), 0.5))
    assert torch.allclose(share_inside(torch.ones(3, 4, 4), soft), soft.mean((1, 2)))


def test_the_figures_are_those_of_the_network(photos, corpus, tmp_path, pipeline):
    finder, work = Finder(), tmp_path / "work"
    bits = {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}
    options = {"corpus": corpus, "work": work, "looks": LOOKS, "finder": finder}
    found = attention_figures(pipeline, photos, settings=Settings(steps=1), **options)
    assert all(torch.equal(w, bits[n]) for n, w in pipeline.unet.named_parameters())
    ann = found["rows"][0]
    assert list(ann["sides"]) == ["untouched", "shut", "random", "stranger"]
    scenes = compose(corpus, "ann", count=2)
    assert ann["area"] == pytest.approx(scenes.inside.mean((1, 2)).tolist(), abs=1e-5)
    masks = {"shut": finder.found["cat"].mask, "stranger": finder.found["dog"].mask}
    masks["untouched"] = masks["shut"] - masks["shut"]
    for side, mask in masks.items():
        with shut(pipeline.unet, mask):
            shares = [by_hand(pipeline, scenes, level) for level in LOOKS.levels]
        mean = [sum(pair) / 2 for pair in zip(*shares, strict=True)]
        assert ann["sides"][side]["words"]["place"]["share"] == pytest.approx(mean, abs=1e-4)
    assert ann["sides"]["random"]["words"] != ann["sides"]["untouched"]["words"]
    assert attention_figures(pipeline, photos, settings=Settings(steps=1), **options) == found
    assert len(finder.found) == 2
    alone = attention_figures(pipeline, photos, subjects=["bob"], **options)
    assert list(alone["rows"][0]["sides"]) == ["untouched", "shut", "random"]
    assert "stranger" not in alone["summary"]["wins"]


def by_hand(pipeline, scenes, level):
    """Mix, run the network and take the share of the place's word, picture by picture."""
    backbone = backbone_for(pipeline)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents, shares = backbone.latents(scenes.pixels), []
    for k, word in enumerate(("beach", "desert")):
        prompt = scenes.prompts[k].format("V* cat")
        time = torch.tensor([round(level * 1000)])
        mixed = backbone.schedule.mix(latents[k : k + 1], noise[k : k + 1], time)
        with record_attention(pipeline.unet, images=1) as recording, torch.no_grad():
            pipeline.unet(mixed, time, **backbone.condition([prompt]))
        where = token_positions(pipeline.tokenizer, prompt, word)
        seen = recording.map(where)
        cells = scenes.inside[k].unflatten(0, (8, 8)).unflatten(2, (8, 8)).mean((1, 3))
        shares.append(float((seen[0] * cells).sum() / seen.sum()))
    return shares


def made_rows():
    def side(value):
        figures = {name: [value, value + 0.1] for name in ("share", "order", "amount")}
        plain = dict.fromkeys(figures, value)
        words = dict.fromkeys(attention_page.WORDS, figures)
        return {"words": words, "levels": {"0.5": plain}, "layers": {"a": plain}, "map": [[1.0]]}

    sides = {"untouched": 0.4, "shut": 0.3, "random": 0.2}
    one = {name: side(value) for name, value in sides.items()}
    two = {**one, "shut": side(0.5)}
    return [
        {"subject": "ann", "noun": "cat", "seed": 0, "area": [0.1, 0.2], "sides": one},
        {"subject": "bob", "noun": "dog", "seed": 0, "area": [0.3, 0.4], "sides": two},
    ]


def test_the_summary_pairs_pictures_and_counts_subjects():
    found = attention_summary(made_rows())
    share = found["words"]["subject"]["share"]
    assert share["shut"]["mean"] == pytest.approx(0.45)
    assert share["shut_minus_untouched"]["mean"] == pytest.approx(0.0)
    assert share["shut_minus_untouched"]["low"] == pytest.approx(-0.1)
    assert share["shut_minus_random"]["mean"] == pytest.approx(0.2)
    assert found["levels"]["0.5"]["order"]["shut_minus_random"]["low"] == pytest.approx(0.1)
    assert found["area"]["mean"] == pytest.approx(0.25)
    assert found["wins"]["untouched"] == {"share": 1, "order": 1, "amount": 1}
    assert found["wins"]["random"] == {"share": 2, "order": 2, "amount": 2}


def test_the_page_quotes_the_figures(photos, corpus, tmp_path, pipeline):
    options = {"corpus": corpus, "work": tmp_path / "work", "looks": LOOKS, "finder": Finder()}
    found = attention_figures(pipeline, photos, **options)
    attention_page.record(found, tmp_path / "docs", corpus)
    kept = json.loads((tmp_path / "docs" / attention_page.RESULTS).read_text())
    page = (tmp_path / "docs" / attention_page.PAGE).read_text()
    assert page == attention_page.markdown(kept)
    mean = kept["summary"]["words"]["identifier"]["share"]["untouched"]["mean"]
    assert f"| V* alone | share | {mean:.4f} |" in page
    drawn = Image.open(tmp_path / "docs" / attention_page.PICTURE)
    shown = attention_page.sheet(kept, corpus)
    assert np.array_equal(np.asarray(drawn), np.asarray(shown))


def test_the_page_says_first_what_was_found():
    found = {"rows": made_rows()[1:], "looks": {"count": 2, "levels": [0.5]}, "settings": {}}
    found |= {"model": "m", "machine": {"processor": "p", "threads": 1, "torch": "t"}}
    found["summary"] = attention_summary(found["rows"])
    assert "**Share: rises.** 0.4500 untouched, 0.5500 shut" in attention_page.markdown(found)
    assert "in 1 of 1 subjects, and in 1 of 1 layers" in attention_page.markdown(found)
    found["summary"] = attention_summary(made_rows())
    assert "**Share: unclear.**" in attention_page.markdown(found)


def test_the_docs_agree_with_the_measurements():
    found = json.loads((ROOT / "docs" / attention_page.RESULTS).read_text("utf-8"))
    page = (ROOT / "docs" / attention_page.PAGE).read_text("utf-8")
    assert page == attention_page.markdown(found)
    assert found["summary"] == attention_summary(found["rows"])


def test_the_command_refuses_a_folder_without_corpus(tmp_path, sd1):
    sd1.save_pretrained(tmp_path / "model")
    words = ["bench", "attention", "--corpus", str(tmp_path), "--work", str(tmp_path / "work")]
    words += ["--model", str(tmp_path / "model"), "--photos", str(ROOT / "examples/photos")]
    result = CliRunner().invoke(app, [*words, "--subject", "old_jar"])
    assert result.exit_code == 1
    assert "pass its folder with --corpus" in " ".join(result.output.split())
