"""The examination of the built-in model, with examiners and models of known answers."""

import numpy as np
import pytest
import torch
from PIL import Image

from cones.mini.probe import Probe, shares
from cones.mini.quality import KNOWN, UNSEEN, asked, psnr, reconstructed, sheet, zero_shot
from cones.mini.world import NOUNS, PLACES, Scene, Thing, caption, with_article


def test_the_probe_learns_what_a_line_can_tell(generator):
    centres = torch.tensor([[0.0, 3.0, 50.0], [3.0, 0.0, 50.0], [3.0, 3.0, 50.0]])
    names = ["cat", "dog", "pot"] * 20
    features = centres.repeat(20, 1) + 0.1 * torch.randn(60, 3, generator=generator)
    probe = Probe.fit(features, names)
    assert probe.name(features) == names
    assert probe.name(centres) == ["cat", "dog", "pot"]


def test_features_that_never_vary_do_no_harm():
    features = torch.tensor([[1.0, 7.0], [-1.0, 7.0]]).repeat(4, 1)
    probe = Probe.fit(features, ["a", "b"] * 4)
    assert probe.name(torch.tensor([[2.0, 7.0], [-2.0, 7.0]])) == ["a", "b"]


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
    unseen = [ask.prompt for ask in asked(UNSEEN, places, len(places) * 2, 0)]
    plain = {ask.prompt for ask in asked(KNOWN, places, len(places) * 2, 0)}
    assert not captions & set(unseen)
    assert all(said.startswith(tuple(PLACES.values())) for said in unseen)
    assert not [said for said in captions if said.startswith(tuple(PLACES.values()))]
    assert plain & captions


def test_every_noun_is_asked_for_in_many_places():
    asks = asked(UNSEEN, ["beach", "road", "snow"], 6, 100)
    assert [ask.noun for ask in asks] == [noun for noun in NOUNS for _ in range(6)]
    assert len({ask.seed for ask in asks}) == len(asks)
    for ask in asks:
        assert ask.prompt.count(with_article(ask.noun)) == 1
        assert PLACES[ask.place] in ask.prompt
    assert {ask.place for ask in asks[:6]} == {"beach", "road", "snow"}
    assert (with_article("sunglasses"), with_article("cat")) == ("sunglasses", "a cat")


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
    assert zero_shot(Aligned(), pixels).tolist() == list(range(len(NOUNS)))


def test_the_sheet_has_a_row_per_noun():
    shades = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(3 * len(NOUNS))]
    page = sheet(shades, columns=2, side=10)
    assert page.size == (96 + 2 * 14, len(NOUNS) * 14)
    assert page.getpixel((96 + 14 + 5, 14 + 5)) == (3 + 1, 0, 0)
