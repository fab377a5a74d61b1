from dataclasses import replace
from pathlib import Path

import pytest

from experiments.metrics.examiner import Seen, SeenThing
from experiments.metrics.success import judged, looks, shares
from experiments.subjects import Example
from tiny_lab import thing

CAT = Example("cat", Path(), "cat", "red", "blue", "stripes", False, "V*")
JAR = Example("jar", Path(), "jar", "white", "green", "dots", False, "V2*")
CAT_SEEN, JAR_SEEN = thing("cat", "red", "blue", "stripes"), thing("jar", "white", "green", "dots")


def test_all_right() -> None:
    found = judged(Seen("snow", (CAT_SEEN,)), [CAT], "snow")
    assert set(found.values()) == {1.0}
    assert set(found) == {
        *("noun", "colour", "second", "pattern", "place", "count", "success", "exact")
    }


@pytest.mark.parametrize(
    ("trait", "column", "success"),
    [
        ("noun", "noun", 0.0),
        ("main", "colour", 0.0),
        ("second", "second", 0.0),
        ("pattern", "pattern", 1.0),
    ],
)
def test_one_wrong_attribute(trait: str, column: str, success: float) -> None:
    found = judged(Seen("snow", (replace(CAT_SEEN, **{trait: "other"}),)), [CAT], "snow")
    assert found[column] == 0.0
    assert found["success"] == success
    assert found["exact"] == 0.0
    assert found["place"] == 1.0


def test_another_place_is_no_success() -> None:
    found = judged(Seen("beach", (CAT_SEEN,)), [CAT], "snow")
    assert (found["place"], found["success"], found["colour"]) == (0.0, 0.0, 1.0)
    assert judged(Seen("beach", (CAT_SEEN,)), [CAT], None)["success"] == 1.0


@pytest.mark.parametrize("things", [(CAT_SEEN, JAR_SEEN), (JAR_SEEN, CAT_SEEN)])
def test_subjects_find_their_things_in_any_order(things: tuple[SeenThing, ...]) -> None:
    found = judged(Seen("snow", things), [CAT, JAR], "snow")
    assert found["success"] == found["exact"] == 1.0


def test_two_subjects_do_not_share_a_thing() -> None:
    found = judged(Seen("snow", (CAT_SEEN,)), [CAT, replace(CAT, identifier="V2*")], "snow")
    assert (found["noun"], found["success"], found["count"]) == (0.5, 0.0, 0.0)


def test_bleeding_attributes_are_wrong() -> None:
    swapped = (replace(CAT_SEEN, main="white"), replace(JAR_SEEN, main="red"))
    found = judged(Seen("snow", swapped), [CAT, JAR], "snow")
    assert (found["noun"], found["colour"], found["success"]) == (1.0, 0.0, 0.0)


def test_nothing_seen_is_all_wrong_but_the_place() -> None:
    found = judged(Seen("snow", ()), [CAT], "snow")
    assert found.pop("place") == 1.0
    assert set(found.values()) == {0.0}


def test_shares_are_means_over_pictures() -> None:
    assert shares([{"noun": 1.0}, {"noun": 0.0}, {"noun": 0.0}, {"noun": 1.0}]) == {"noun": 0.5}


def test_colours_are_right_as_the_judge_reads_them_on_the_photos() -> None:
    swapped = thing("cat", "blue", "red", "stripes")
    other = thing("cat", "blue", "blue", "stripes")
    photos = [Seen("snow", (each,)) for each in (swapped, swapped, CAT_SEEN, other, other, other)]
    example = replace(CAT, looks=looks(photos[:5], "cat"))
    assert example.looks == {("blue", "red"), ("blue", "blue")}
    assert looks(photos[:4], "cat") == {("blue", "red")}
    assert looks(photos, "dog") == frozenset()
    example = replace(CAT, looks=frozenset({("blue", "red")}))
    for seen, right in ((swapped, 1.0), (CAT_SEEN, 1.0), (other, 0.0)):
        assert judged(Seen("snow", (seen,)), [example], "snow")["success"] == right
    assert judged(Seen("snow", (swapped,)), [CAT], "snow")["success"] == 0.0
