"""How the things of a training picture stand, and that captions say so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cones.mini import arrange
from cones.mini.data import Corpus, related
from cones.mini.data import arrange as put
from cones.mini.sprites import SIZE, Background, Sprite
from cones.mini.world import (
    BEHIND,
    IN_FRONT_OF,
    LEFT_OF,
    LIGHTS,
    ON,
    RIGHT_OF,
    Scene,
    Thing,
    caption,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)
GROUND = Background(Image.new("RGB", (SIZE, SIZE), (0, 255, 0)), "grass", 0.6, 0.95)


def thing(colour, *, cm=None, top=None, drawn=True) -> Sprite:
    """Make a square of one colour; drawings keep their brightness."""
    image = Image.new("RGBA", (20, 20), (*colour, 255))
    return Sprite(image, Thing("ball", "ball", None), "m", drawn, cm, top)


def where(canvas, colour) -> tuple[float, float, int]:
    """Give the mean row, the mean column and the number of the pixels of a colour."""
    hits = np.abs(np.asarray(canvas, dtype=int) - colour).sum(-1) < 120
    rows, columns = np.nonzero(hits)
    return rows.mean(), columns.mean(), len(rows)


def scene(relation, first, second, seed):
    canvas = GROUND.image.copy()
    put(canvas, [first, second], relation, GROUND, np.random.default_rng(seed))
    return where(canvas, RED), where(canvas, BLUE)


@pytest.mark.parametrize("seed", range(8))
def test_relations_hold_of_the_thing_that_is_named_first(seed):
    red, blue = thing(RED), thing(BLUE)
    left, right = scene(LEFT_OF, red, blue, seed)
    assert left[1] < right[1]
    left, right = scene(RIGHT_OF, red, blue, seed)
    assert left[1] > right[1]
    front, far = scene(IN_FRONT_OF, red, blue, seed)
    assert front[0] > far[0]
    assert front[2] > far[2]
    far, front = scene(BEHIND, red, blue, seed)
    assert front[0] > far[0]
    upper, lower = scene(ON, red, replace(blue, top=1.0), seed)
    assert upper[0] < lower[0]
    assert abs(upper[1] - lower[1]) < 2


def test_a_thing_on_another_stands_at_its_top():
    red, blue = thing(RED), thing(BLUE, top=0.5)
    canvas = GROUND.image.copy()
    put(canvas, [red, blue], ON, GROUND, np.random.default_rng(0))
    pixels = np.asarray(canvas, dtype=int)
    reds = np.nonzero((np.abs(pixels - RED).sum(-1) < 120).any(1))[0]
    blues = np.nonzero((np.abs(pixels - BLUE).sum(-1) < 120).any(1))[0]
    middle = (blues.min() + blues.max() + 1) / 2
    assert abs(reds.max() + 1 - middle) <= 2


def test_what_holds_another_is_larger_and_has_a_place_for_it():
    cup, sofa = thing(RED, cm=10.0), thing(BLUE, cm=180.0, top=0.5)
    assert arrange.holds(cup, sofa)
    assert not arrange.holds(sofa, cup)
    assert not arrange.holds(cup, replace(sofa, top=None))
    assert not arrange.holds(thing(RED), sofa)
    assert not arrange.holds(replace(cup, cm=170.0), sofa)
    drawn = [related([sofa, cup], np.random.default_rng(seed)) for seed in range(60)]
    on = [chosen for chosen, relation in drawn if relation == ON]
    assert 10 < len(on) < 40
    assert all(upper is cup and lower is sofa for upper, lower in on)
    assert all(chosen == [sofa, cup] for chosen, relation in drawn if relation != ON)


def test_sizes_follow_centimetres_but_come_nearer_to_each_other():
    cup, dog, sofa = (thing(RED, cm=size) for size in (10.0, 60.0, 180.0))
    small, middle, large = arrange.relative([cup, dog, sofa])
    assert arrange.SMALLEST <= small < middle < large <= arrange.LARGEST
    assert large / small < 18**0.5
    assert arrange.relative([dog, thing(RED)]) == [1.0, 1.0]
    twice = arrange.relative([thing(RED, cm=20.0), thing(RED, cm=40.0)])
    assert twice[1] / twice[0] == pytest.approx(2**arrange.NEARER)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_things_side_by_side_stand_on_the_ground(count):
    canvas = GROUND.image.copy()
    things = [thing(RED, cm=20.0)] * count
    covered = arrange.stand(canvas, things, GROUND, np.random.default_rng(1))
    masks = [np.asarray(each) > 128 for each in covered]
    middles = [np.nonzero(mask)[1].mean() for mask in masks]
    assert middles == sorted(middles)
    for mask in masks:
        assert 0.68 * SIZE <= np.nonzero(mask)[0].max() <= SIZE


@pytest.mark.parametrize("seed", range(5))
def test_things_keep_to_the_cells_of_the_autoencoder(seed):
    for cell in (arrange.CELL, 1):
        canvas = GROUND.image.copy()
        rng = np.random.default_rng(seed)
        (covered,) = arrange.stand(canvas, [thing(RED)], GROUND, rng, cell)
        rows, columns = np.nonzero(np.asarray(covered))
        long = rows.max() + 1 - rows.min()
        edges = [long, columns.min(), rows.max() + 1]
        if cell > 1:
            assert not any(edge % cell for edge in edges)
            kept = edges
    assert abs(kept[0] - long) <= arrange.CELL / 2
    assert abs(kept[1] - columns.min()) <= arrange.CELL


def test_one_picture_of_ten_is_loose(corpus_folder: Path, monkeypatch):
    import cones.mini.data as data

    seen = []
    monkeypatch.setattr(data, "arrange", lambda *given: seen.append(given[-1]))
    corpus = Corpus(corpus_folder)
    for number in range(20):
        corpus.picture(number, 0)
    assert seen == ([1] + [arrange.CELL] * 9) * 2


def test_light_multiplies_the_colours():
    canvas = Image.new("RGB", (2, 2), (200, 100, 50))
    assert arrange.lit(canvas, (0.5, 1.0, 2.0)).getpixel((0, 0)) == (100, 100, 100)
    assert arrange.lit(canvas, (2.0, 1.0, 1.0)).getpixel((0, 0)) == (255, 100, 50)


def test_captions_name_the_light_that_pictures_have(corpus_folder: Path, monkeypatch):
    import cones.mini.data as data

    corpus = Corpus(corpus_folder)
    said = caption(
        Scene((Thing("cup", "cup", None),), "and", "beach", False, "at sunset"),
        np.random.default_rng(0),
    )
    assert said.endswith("at sunset")
    monkeypatch.setattr(data, "LIT", 1.0)
    lit = [corpus.picture(number, 0) for number in range(30)]
    monkeypatch.setattr(data, "LIT", 0.0)
    plain = [corpus.picture(number, 0)[1] for number in range(30)]
    assert not any(said.endswith(tuple(LIGHTS)) for said in plain)
    by_day = [said for _, said in lit if "at night" not in said]
    assert sum(said.endswith(tuple(LIGHTS)) for said in by_day) > 20
    dim = [image.mean() for image, said in lit if said.endswith("in dim light")]
    bright = [image.mean() for image, said in lit if said.endswith("in bright light")]
    assert np.mean(dim) < 0.7 * np.mean(bright)
