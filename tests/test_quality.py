"""The examination of the built-in model, with examiners and models of known answers."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.mini import weights_path
from cones.mini.card import with_measured
from cones.mini.data import Corpus
from cones.mini.examiner import Examiner, Shown, composed
from cones.mini.probe import Probe, shares
from cones.mini.quality import (
    by_noun,
    model_figures,
    new_looks,
    psnr,
    reconstructed,
    sheet,
    zero_shot,
)
from cones.mini.questions import KNOWN, TWO, UNSEEN, coloured, groups_of, several, single
from cones.mini.sprites import SIZE
from cones.mini.world import NOUNS, PLACES, Scene, Thing, caption, held_out, with_article

ROOT = Path(__file__).parents[1]


def test_the_probe_learns_what_a_line_can_tell(generator):
    centres = torch.tensor([[0.0, 3.0, 50.0], [3.0, 0.0, 50.0], [3.0, 3.0, 50.0]])
    names = [("cat",), ("dog",), ("pot",)] * 20
    features = centres.repeat(20, 1) + 0.1 * torch.randn(60, 3, generator=generator)
    probe = Probe.fit(features, names)
    assert probe.name(features) == names
    assert probe.name(centres) == [("cat",), ("dog",), ("pot",)]


def test_features_that_never_vary_do_no_harm():
    features = torch.tensor([[1.0, 7.0], [-1.0, 7.0]]).repeat(4, 1)
    probe = Probe.fit(features, ["a", "b"] * 4)
    assert probe.name(torch.tensor([[2.0, 7.0], [-2.0, 7.0]])) == [("a",), ("b",)]


def test_the_probe_learns_several_classes_of_one_picture(generator):
    groups = [("cat",), ("cat", "dog"), ("dog", "pot"), ("pot",)] * 30
    names = ["cat", "dog", "pot"]
    features = torch.tensor([[float(name in group) for name in names] for group in groups])
    features += 0.05 * torch.randn(features.shape, generator=generator)
    probe = Probe.fit(features, groups)
    assert {frozenset(found) for found in probe.name(features[1::4], 2)} == {frozenset(groups[1])}
    assert {frozenset(found) for found in probe.name(features[2::4], 2)} == {frozenset(groups[2])}
    assert probe.name(features[0::4], 1) == [("cat",)] * 30


def test_shares_count_by_word():
    found = shares(["cat", "dog", "dog", "dog"], ["cat", "cat", "cat", "dog"])
    assert found["share"] == 0.5
    assert (found["count"], found["chance"]) == (4, 0.5)
    assert found["by_word"]["cat"] == {"share": pytest.approx(1 / 3), "mistaken_for": "dog"}
    assert found["by_word"]["dog"] == {"share": 1.0, "mistaken_for": None}


def test_unseen_prompts_are_never_captions():
    rng = np.random.default_rng(0)
    captions = {
        caption(Scene((Thing(noun, noun, None),), "and", place, drawn), rng)
        for noun in NOUNS
        for place in PLACES
        for drawn in (False, True)
        for _ in range(10)
    }
    places = list(PLACES)
    unseen = [ask.prompt for ask in single(UNSEEN, places, len(places) * 2, 0)]
    plain = {ask.prompt for ask in single(KNOWN, places, len(places) * 2, 0)}
    assert not captions & set(unseen)
    assert all(said.startswith(tuple(PLACES.values())) for said in unseen)
    assert not [said for said in captions if said.startswith(tuple(PLACES.values()))]
    assert plain & captions


def test_every_noun_is_asked_for_in_many_places():
    asks = single(UNSEEN, ["beach", "road", "snow"], 6, 100)
    assert [ask.shown.nouns for ask in asks] == [(noun,) for noun in NOUNS for _ in range(6)]
    assert len({ask.seed for ask in asks}) == len(asks)
    for ask in asks:
        assert ask.prompt.count(with_article(ask.shown.nouns[0])) == 1
        assert PLACES[ask.shown.place] in ask.prompt
    assert {ask.shown.place for ask in asks[:6]} == {"beach", "road", "snow"}
    assert {ask.prompt.endswith("a ball") for ask in asks[:6]} == {True}
    assert len({ask.prompt.split(", ")[1] for ask in asks[:6]}) == len(UNSEEN)
    assert (with_article("sunglasses"), with_article("cat")) == ("sunglasses", "a cat")


def test_several_things_stand_where_none_is_held_out():
    places = list(PLACES)
    for unseen in (False, True):
        groups = groups_of(2, 40, unseen=unseen)
        assert 0 < len(groups) <= 40
        assert all(held_out(*group) == unseen for group in groups)
        for ask in several(groups, places, TWO, 5):
            assert not any(held_out(noun, ask.shown.place) for noun in ask.shown.nouns)
            assert PLACES[ask.shown.place] in ask.prompt
            first, second = (ask.prompt.index(with_article(noun)) for noun in ask.shown.nouns)
            assert first < second
    for group in groups_of(3, 30):
        assert not any(held_out(*pair) for pair in combinations(group, 2))


def test_colours_are_those_of_the_corpus(corpus_folder):
    asks = coloured(Corpus(corpus_folder), ["beach", "road"], 0)
    assert {ask.shown.nouns[0] for ask in asks} == set(list(NOUNS)[1::2])
    assert all("a red " in ask.prompt or "photo of red " in ask.prompt for ask in asks)
    assert {ask.shown.colour for ask in asks} == {"red"}


def test_composed_pictures_show_what_they_say(corpus_folder):
    corpus = Corpus(corpus_folder)
    image, shown = composed(corpus, 1, 3)
    again, _ = composed(corpus, 1, 3)
    np.testing.assert_array_equal(image, again)
    assert (shown.nouns, shown.colour) == (("barrel",), "red")
    _, three = composed(corpus, 4, 3, 3)
    assert three.nouns[0] == "chair"
    assert len(set(three.nouns)) == 3
    assert three.colour is None


class Reader:
    """A judge that sees nothing but a code in the first pixel: its features are one-hot."""

    def images(self, pixels):
        codes = (pixels[:, 0, 0, 0] * 255).round().long() % 7
        return torch.eye(7)[codes]


class Says:
    """A classifier that always gives the same answers."""

    def __init__(self, *answers):
        self.answers = answers

    def name(self, features, count=1):
        return [tuple(self.answers[i][:count]) for i in range(len(features))]


def test_the_examiner_counts_what_is_named_right(corpus_folder):
    examiner = Examiner(Reader(), Corpus(corpus_folder), fitted=40, held_out=20)
    assert {len(known.shown) for known in examiner.fresh.values()} == {20}
    assert {len(entry.nouns) for entry in examiner.fresh[3].shown} == {3}
    assert set(examiner.nouns.names) == set(NOUNS)
    examiner.nouns = Says(("cat", "dog"), ("dog", "cat"), ("hat", "dog"))
    examiner.places = Says(("snow",), ("snow",), ("beach",))
    examiner.colours = Says(("blue",), ("blue",))
    features = torch.zeros(3, 7)
    alone = [
        Shown(("cat",), "snow", "blue"),
        Shown(("cat",), "road"),
        Shown(("hat",), "beach", "red"),
    ]
    found = examiner.examine(features, alone)
    assert found["nouns"]["share"] == found["place"]["share"] == pytest.approx(2 / 3)
    assert found["nouns"]["by_word"]["cat"] == {"share": 0.5, "mistaken_for": "dog"}
    assert found["colour"] == {"share": 0.5, "count": 2}
    both = [Shown(("dog", "cat"), "snow")] * 2 + [Shown(("dog", "cat"), "beach")]
    found = examiner.examine(features, both)
    assert found["nouns"] == {"share": pytest.approx(2 / 3), "count": 3}
    assert found["place"]["share"] == 1
    assert "colour" not in found


def test_every_figure_of_a_model_is_measured(sd1, corpus_folder):
    """The tiny random model draws nothing, and the figures have to say so."""
    corpus = Corpus(corpus_folder)
    examiner = Examiner(Reader(), corpus, fitted=60, held_out=40)
    figures, sheets = model_figures(sd1, Blind(), examiner, corpus, per_noun=2, steps=1)
    assert figures["composed"].keys() == {"1", "2", "3"}
    for kind in ("plain", "unseen_order", "colours", "two", "two_never_together", "three"):
        assert figures[kind]["nouns"]["count"] == len(sheets[kind])
        assert figures[kind]["nouns"]["share"] < 0.5
    seen, never = figures["plain"]["seen_pairs"], figures["plain"]["never_together"]
    assert seen["nouns"]["count"] + never["nouns"]["count"] == len(sheets["plain"])
    assert figures["plain"]["seconds_per_picture"] > 0
    assert figures["clip_zero_shot"]["share"] == pytest.approx(1 / len(NOUNS))


def test_by_noun_compares_pictures_of_one_noun_only():
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 1]])
    shown = [Shown((noun,), "snow") for noun in ("cat", "dog", "cat", "dog")]
    assert by_noun(features, shown) == pytest.approx((0 + 1 - 2**-0.5) / 2)


class Blind:
    """A CLIP to which all pictures look like the first noun."""

    def images(self, pixels):
        return torch.eye(len(NOUNS))[[0] * len(pixels)]

    def texts(self, prompts):
        return torch.eye(len(NOUNS))[: len(prompts)]


class Dimming:
    """An autoencoder whose pictures come back a tenth darker."""

    def encode(self, pixels):
        return type("Out", (), {"latent_dist": type("Dist", (), {"mean": pixels})})

    def decode(self, latents):
        return type("Out", (), {"sample": latents - 0.2})


def test_psnr_of_a_known_error():
    pixels = torch.full((3, 3, 8, 8), 0.5)
    found = reconstructed(Dimming(), pixels)
    torch.testing.assert_close(psnr(found, pixels), torch.full((3,), 20.0))


def test_reconstructions_are_clipped_and_keep_their_order():
    pixels = torch.linspace(0, 1, 40)[:, None, None, None].expand(-1, 3, 8, 8)
    torch.testing.assert_close(reconstructed(Dimming(), pixels), (pixels - 0.1).clamp(min=0))


class Aligned:
    """Picture ``i`` and text ``i`` have the same direction, at other lengths."""

    def images(self, pixels):
        return torch.eye(len(NOUNS))[pixels[:, 0, 0, 0].long()] * 3

    def texts(self, prompts):
        return torch.eye(len(NOUNS)) * torch.arange(1.0, len(prompts) + 1)[:, None]


def test_zero_shot_compares_directions():
    pixels = torch.arange(len(NOUNS)).float()[:, None, None, None].expand(-1, 3, 2, 2)
    assert zero_shot(Aligned(), pixels, list(NOUNS))["share"] == 1
    turned = [*list(NOUNS)[1:], next(iter(NOUNS))]
    assert zero_shot(Aligned(), pixels, turned)["share"] == 0


def test_new_looks_are_those_of_no_training(corpus_folder):
    pixels, nouns = new_looks(corpus_folder, per_noun=2)
    assert nouns == [noun for noun in NOUNS for _ in range(2)]
    assert pixels.shape == (len(nouns), 3, SIZE, SIZE)
    seen = Corpus(corpus_folder).sprites["ball"][False]
    new = Corpus(corpus_folder, split="subject").sprites["ball"][False]
    assert not {v.model for views in seen.values() for v in views} & {
        v.model for views in new.values() for v in views
    }


def test_the_sheet_has_a_row_per_noun():
    shades = [Image.new("RGB", (64, 64), (10 * (i // 3), 0, 0)) for i in range(3 * len(NOUNS))]
    page = np.asarray(sheet(shades, columns=2))[:, :, 0]
    shown = [value for value in np.unique(page) if (page == value).sum() >= 2 * 96 * 96]
    assert set(shown) >= {10 * row for row in range(len(NOUNS))}


def test_the_gallery_shows_training_pictures_and_losses(corpus_folder, tmp_path, monkeypatch):
    from cones.mini import gallery
    from cones.plot import read_settings

    corpus = Corpus(corpus_folder)
    page = gallery.training_sheet(corpus, 12, seed=0)
    first, _ = corpus.picture(0, 0)
    expected = np.asarray(Image.fromarray(first).resize((96, 96), Image.Resampling.LANCZOS))
    found = np.asarray(page)
    rows, columns = (found.shape[0] - 96, found.shape[1] - 96)
    assert any(
        np.array_equal(found[y : y + 96, x : x + 96], expected)
        for y in range(min(rows, 60))
        for x in range(100, min(columns, 180))
    )
    words = ["--corpus", str(corpus_folder), "--out", str(tmp_path / "docs"), "--count", "12"]
    monkeypatch.setattr("sys.argv", ["gallery", *words])
    gallery.main()
    assert read_settings(tmp_path / "docs" / "model_pictures.png") == {"count": 12, "seed": 0}
    assert read_settings(tmp_path / "docs" / "model_losses.png") == {"every": 20}


def test_the_card_quotes_the_record():
    text = (weights_path() / "README.md").read_text("utf-8")
    figures = json.loads((ROOT / "docs/results/model.json").read_text("utf-8"))
    assert with_measured(text, figures) == text, "run: python -m cones.mini.quality"
    share = figures["plain"]["nouns"]["share"]
    assert f"| single thing named | {share:.1%} |" in text
    assert text.count("## Measured") == 1
    bare = text[: text.index("## Measured")] + text[text.index("## Licences") :]
    assert with_measured(bare, figures) == text
