"""Looks: one number one look, subjects left out, and every noun shows its colours."""

import math
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

from pretraining.world.colours import COLOURS, DARK, PALETTES
from pretraining.world.looks import (
    CLEARANCE,
    NAMED,
    SUBJECTS,
    TUNING,
    Look,
    distance,
    draw,
    draw_look,
    named_look,
    photograph,
    subject_look,
)
from pretraining.world.toys import NOUNS


def test_the_nouns_follow_their_order() -> None:
    assert [draw_look(number).noun for number in range(32)] == list(NOUNS) * 2
    assert [named_look(index).noun for index in range(NAMED)] == list(NOUNS) * 6


def test_one_number_is_one_look_and_one_picture() -> None:
    first, again = draw_look(37, seed=5), draw_look(37, seed=5)
    assert first == again
    views = [photograph(look, np.random.default_rng(3), size=32) for look in (first, again)]
    assert views[0].rgba.tobytes() == views[1].rgba.tobytes()
    assert draw_look(37, seed=6) != first
    assert draw_look(53, seed=5).parameters != first.parameters


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_fills_its_frame_from_its_extreme_sides(noun: str) -> None:
    for number in range(4):
        look = draw_look(list(NOUNS).index(noun) + 16 * number)
        view = photograph(look, np.random.default_rng(number), size=40)
        low, high = NOUNS[noun]["yaws"]
        assert low <= abs(view.yaw) <= high
        assert max(view.rgba.shape) == 40
        assert (view.rgba[..., 3] > 127).mean() > 0.3


def repainted(look: Look, key: str) -> Look:
    """Return the look with one colour turned into its opposite."""
    word, rgb = look.parameters[key]
    opposite = tuple(1 - c for c in rgb)
    return replace(look, parameters={**look.parameters, key: (word, opposite)})


@pytest.mark.parametrize(
    ("noun", "pattern"),
    [(noun, pattern) for noun, toy in NOUNS.items() for pattern in toy["patterns"]],
)
def test_both_colours_that_a_caption_may_name_can_be_seen(noun: str, pattern: str) -> None:
    words = {"main": "white", "second": "black", "pattern": pattern}
    look = draw(np.random.default_rng(0), noun, **words)
    before = photograph(look, np.random.default_rng(2), size=40).rgba.astype(int)
    for key, share in (("main", 0.15), ("second", 0.03)):
        after = photograph(repainted(look, key), np.random.default_rng(2), size=40).rgba
        changed = (abs(after - before)[..., :3].max(-1) > 40) & (before[..., 3] > 127)
        assert changed.sum() / (before[..., 3] > 127).sum() > share


def test_drawn_and_named_looks_stay_clear_of_every_subject() -> None:
    subjects = [subject_look(key) for key in SUBJECTS]
    looks = [draw_look(number) for number in range(1600)] + [named_look(i) for i in range(NAMED)]
    for look in looks:
        for subject in subjects:
            assert distance(look, subject) >= CLEARANCE
            if look.noun == subject.noun:
                triples = {(one.main, one.second, one.pattern) for one in (look, subject)}
                assert len(triples) == 2


def test_a_distance_is_zero_to_itself_symmetric_and_infinite_across_nouns() -> None:
    a, b, other = draw_look(0), draw_look(16), draw_look(1)
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) > 0
    assert distance(a, other) == math.inf


def test_a_distance_counts_a_whole_range_as_one() -> None:
    car = subject_look("red_car")
    low, high = NOUNS["car"]["numbers"]["length"]
    ends = [
        replace(car, parameters={**car.parameters, "length": length}) for length in (low, high)
    ]
    assert distance(*ends) == pytest.approx(1 / math.sqrt(len(car.parameters)))


def test_names_are_distinct_made_up_words() -> None:
    names = [named_look(index).name for index in range(NAMED)]
    assert len(set(names)) == NAMED
    assert all(
        re.fullmatch("([bdfgklmnprstvz][aeiou]){2}[bdfgklmnprstvz]", n or "") for n in names
    )
    assert draw_look(0).name is None


def test_every_noun_has_a_subject_and_a_third_serves_tuning() -> None:
    assert {subject.noun for subject in SUBJECTS.values()} == set(NOUNS)
    assert len(SUBJECTS) == 18
    assert len(TUNING) == 6
    assert set(TUNING) < set(SUBJECTS)


@pytest.mark.parametrize("key", SUBJECTS)
def test_a_subject_has_the_marks_it_is_listed_with(key: str) -> None:
    subject, look, toy = SUBJECTS[key], subject_look(key), NOUNS[SUBJECTS[key].noun]
    for word in ("noun", "main", "second", "pattern", "kind"):
        assert getattr(look, word) == getattr(subject, word)
    assert subject.pattern in toy["patterns"]
    assert subject.kind in toy["kinds"]
    for which in ("main", "second"):
        words = PALETTES[toy[which]] if isinstance(toy[which], str) else toy[which]
        assert getattr(subject, which) in words
    assert subject.pattern != "plain" or set(toy["patterns"]) == {"plain"}
    colours = (look.parameters["main"][1], look.parameters["second"][1])
    assert math.dist(*colours) > 0.5


def test_a_look_can_be_sent_to_another_process() -> None:
    look = draw_look(3)
    assert pickle.loads(pickle.dumps(look)) == look
    assert DARK not in (look.parameters["main"][1], look.parameters["second"][1])


@pytest.mark.parametrize("noun", NOUNS)
def test_every_range_of_a_noun_is_one_and_its_words_are_known(noun: str) -> None:
    toy = NOUNS[noun]
    assert all(low < high for low, high in (*toy["numbers"].values(), toy["yaws"]))
    for words in (toy["main"], toy["second"], *toy["colours"].values()):
        assert set(PALETTES[words] if isinstance(words, str) else words) <= set(COLOURS)
    assert set(toy["carries"]) <= set(NOUNS) - {noun}
