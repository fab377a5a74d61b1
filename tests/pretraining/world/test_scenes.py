from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pretraining.world.captions import PLACES
from pretraining.world.scenes import (
    NOUNS,
    ON,
    Picture,
    Scene,
    compose,
    held_out_pair,
    held_out_place,
    plan,
)
from pretraining.world.stores import LOOK_SIZE, LookStore


def row(noun: str, name: str | None, size: tuple[int, int]) -> dict[str, Any]:
    words = {"main": "red", "second": "white", "pattern": "stripes", "kind": "plain"}
    return {"noun": noun, **words, "name": name, "pitch": 20.0, "size": list(size)}


@pytest.fixture(scope="module")
def looks() -> LookStore:
    """Flat rectangles for toys: each look has a grey level of its own."""
    rng = np.random.default_rng(0)
    rows, array = [], np.zeros((4 * len(NOUNS), LOOK_SIZE, LOOK_SIZE, 4), np.uint8)
    for k in range(len(array)):
        height, width = (LOOK_SIZE, int(rng.integers(50, 100)))[:: 1 if k % 2 else -1]
        array[k, :height, :width] = (200, 20 + 3 * k, 200, 255)
        name = "mofib" if k >= 3 * len(NOUNS) else None
        rows.append(row(NOUNS[k % len(NOUNS)], name, (height, width)))
    return LookStore([array], rows)


@pytest.fixture(scope="module")
def pictures(looks: LookStore) -> list[Picture]:
    return [compose(number, looks) for number in range(60)]


def combined(looks: LookStore, scene: Scene) -> list[bool]:
    nouns = [looks.rows[spot.look]["noun"] for spot in scene.spots]
    places = [held_out_place(noun, scene.place) for noun in nouns]
    return places + [held_out_pair(*pair) for pair in combinations(nouns, 2)]


def test_training_never_shows_what_is_held_out(looks: LookStore) -> None:
    assert not any(any(combined(looks, plan(number, looks))) for number in range(500))


def test_evaluation_can_ask_for_only_what_is_held_out(looks: LookStore) -> None:
    scenes = [plan(number, looks, held_out=True) for number in range(200)]
    assert all(any(combined(looks, scene)) and scene.held_out for scene in scenes)


def test_about_a_tenth_is_held_out_evenly() -> None:
    places = np.array([[held_out_place(noun, place) for place in PLACES] for noun in NOUNS])
    assert set(places.sum(1)) == {1}
    assert set(places.sum(0)) <= {1, 2}
    pairs = np.array([[held_out_pair(a, b) for a in NOUNS] for b in NOUNS])
    assert np.array_equal(pairs, pairs.T)
    assert not pairs.diagonal().any()
    assert set(pairs.sum(0)) <= {1, 2}
    assert pairs.sum() / 2 / 120 == pytest.approx(0.1, abs=0.03)


def test_same_number_same_bits(looks: LookStore) -> None:
    first, again = compose(7, looks), compose(7, looks)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.caption == again.caption
    assert not np.array_equal(first.pixels, compose(7, looks, seed=1).pixels)


def test_boxes_bound_masks_and_masks_do_not_overlap(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert np.sum([thing.mask for thing in picture.things], axis=0).max() == 1
        for thing in picture.things:
            x0, y0, x1, y1 = thing.box
            assert thing.mask[y0:y1, x0:x1].sum() == thing.mask.sum() > 0
            assert thing.mask[y0].any()
            assert thing.mask[y1 - 1].any()
            assert thing.mask[:, x0].any()
            assert thing.mask[:, x1 - 1].any()


def test_masks_show_the_look_that_was_pasted(looks: LookStore) -> None:
    for number in range(60):
        scene, picture = plan(number, looks), compose(number, looks)
        if scene.light or scene.place == "night":
            continue
        for spot, thing in zip(scene.spots, picture.things, strict=True):
            colour = looks.rgba(spot.look)[0, 0, :3]
            seen = np.median(picture.pixels[thing.mask], axis=0)
            assert np.abs(seen - colour).max() <= 1


def test_things_stay_inside_the_picture_and_single_ones_are_large(pictures: list[Picture]) -> None:
    for picture in pictures:
        for x0, y0, x1, y1 in (thing.box for thing in picture.things):
            assert min(x0, y0) > 0
            assert max(x1, y1) < 128
        if len(picture.things) == 1:
            x0, y0, x1, y1 = picture.things[0].box
            assert 0.5 * 128 <= max(x1 - x0, y1 - y0) <= 0.87 * 128


def test_counts_are_drawn_as_promised(looks: LookStore) -> None:
    counts = np.bincount([len(plan(number, looks).spots) for number in range(700)])
    assert counts[1:] / 700 == pytest.approx([0.72, 0.23, 0.05], abs=0.04)


def test_relations_are_true(looks: LookStore) -> None:
    seen = set()
    for number in range(400):
        scene = plan(number, looks)
        if len(scene.spots) != 2:
            continue
        (a, b), relation = scene.spots, scene.relation
        seen.add(relation)
        if relation == "to the left of":
            assert a.x < b.x
        elif relation == "to the right of":
            assert a.x > b.x
        elif relation == "in front of":
            assert a.foot > b.foot
        elif relation == "on":
            nouns = [looks.rows[spot.look]["noun"] for spot in scene.spots]
            assert nouns[0] in ON[nouns[1]]
            assert a.foot < b.foot
            assert a.x == b.x
        assert relation == "and" or f" {relation} " in scene.caption
    assert seen == {"and", "next to", "to the left of", "to the right of", "in front of", "on"}


def test_what_is_in_front_covers_and_what_is_behind_stays_visible(looks: LookStore) -> None:
    for number in range(300):
        if plan(number, looks).relation == "in front of":
            front, behind = compose(number, looks).things
            assert front.mask.sum() > 0
            assert behind.mask.sum() > 0.4 * (behind.box[2] - behind.box[0]) * (
                behind.box[3] - behind.box[1]
            )


def test_any_size(looks: LookStore) -> None:
    assert compose(3, looks, size=64).pixels.shape == (64, 64, 3)
