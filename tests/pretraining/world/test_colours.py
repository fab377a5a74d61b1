"""Colours stay in their clusters, clusters apart; patterns fill the share they say."""

import colorsys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretraining.world.colours import (
    COLOURS,
    PALETTES,
    Region,
    dots,
    draw_colour,
    marked,
    painted,
    panels,
    patches,
    stripes,
    where,
    zigzag,
)


@pytest.mark.parametrize("word", COLOURS)
def test_a_drawn_colour_lies_in_its_own_cluster_only(word: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn, rgb = draw_colour(rng, [word])
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        owners = [
            name
            for name, ((h0, h1), (s0, s1), (v0, v1)) in COLOURS.items()
            if any(h0 - 1e-6 <= hue + turn <= h1 + 1e-6 for turn in (-1, 0, 1))
            and s0 - 1e-6 <= saturation <= s1 + 1e-6
            and v0 - 1e-6 <= value <= v1 + 1e-6
        ]
        assert drawn == word
        if saturation > 0:
            assert owners == [word]


def test_an_avoided_word_is_never_drawn() -> None:
    rng = np.random.default_rng(1)
    words = {draw_colour(rng, ["red", "blue", "white"], avoid=("blue",))[0] for _ in range(60)}
    assert words == {"red", "white"}


def test_a_word_names_a_palette_or_one_colour() -> None:
    rng = np.random.default_rng(2)
    assert {draw_colour(rng, "coat")[0] for _ in range(90)} == set(PALETTES["coat"])
    assert {draw_colour(rng, "orange")[0] for _ in range(9)} == {"orange"}
    assert not set(PALETTES) & set(COLOURS)


def ring(count: int = 40_000) -> torch.Tensor:
    """Return points evenly spread over a cylinder of radius 0.5 and height 2."""
    generator = torch.Generator().manual_seed(0)
    angle, height = torch.rand(2, count, generator=generator)
    angle = angle * 2 * torch.pi
    return torch.stack([0.5 * angle.sin(), 2 * height, 0.5 * angle.cos()])


@pytest.mark.parametrize(
    ("region", "share"),
    [
        (stripes(0.25, 0.3, 0.4), 0.4),
        (panels(6, 0.2, 0.35), 0.35),
        # A dot's area over its cell's: six dots a row, rows 0.5 apart.
        (dots(6, 0.1, 0.5, 0.1), np.pi * 0.01 / (np.pi / 6 * 0.5)),
        (zigzag(6, 1.0, 0.1, 0.05), 0.05),
    ],
)
def test_a_pattern_fills_its_share(region: Region, share: float) -> None:
    assert region(ring()).float().mean() == pytest.approx(share, abs=0.01)


def test_patches_show_on_every_side() -> None:
    p = ring()
    for seed in range(10):
        region = patches(seed, (0.5, 2.0, 0.5), 0.0, 0.3)(p)
        for side in (p[2] > 0, p[2] < 0, p[0] > 0, p[0] < 0):
            assert 0.02 < region[side].float().mean() < 0.5


def test_where_paints_inside_and_outside() -> None:
    rgb = painted(where(lambda p: p[1] > 1, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), ring(100))
    assert torch.equal(rgb[:, 0] == 1, ring(100)[1] > 1)
    assert torch.equal(rgb[:, 0] + rgb[:, 2], torch.ones(100))


@pytest.mark.parametrize(("pattern", "seen"), [("belly", True), ("plain", False)])
def test_markings_show_only_in_their_own_pattern(pattern: str, seen: bool) -> None:
    toy = SimpleNamespace(second=(1.0, 0.0, 0.0), pattern=pattern)
    rgb = painted(marked(toy, "belly", lambda p: p[1] > 1, (0.0, 0.0, 1.0)), ring(100))
    assert bool((rgb[:, 0] == 1).any()) == seen
