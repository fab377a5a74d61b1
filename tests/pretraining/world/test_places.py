import numpy as np
import pytest

from pretraining.world import TABLES
from pretraining.world.captions import PLACES
from pretraining.world.places import PAINTERS, paint


def test_every_place_has_a_phrase() -> None:
    assert tuple(PAINTERS) == tuple(PLACES)


@pytest.mark.parametrize("place", PAINTERS)
def test_same_number_same_bits(place: str) -> None:
    first, other = paint(place, 3, size=48), paint(place, 4, size=48)
    again = paint.__wrapped__(place, 3, size=48)  # anew, not the one kept
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert not np.array_equal(first.pixels, paint(place, 3, seed=1, size=48).pixels)


@pytest.mark.parametrize("place", PAINTERS)
def test_layout_does_not_depend_on_size(place: str) -> None:
    for number in range(4):
        small, large = paint(place, number, size=16), paint(place, number, size=64)
        assert small.ground == large.ground
        assert TABLES["places"][place]["horizon"][0] < small.ground <= 0.92


def test_night_is_dark_and_snow_is_bright() -> None:
    night, snow = (
        np.mean([paint(p, k, size=32).pixels.mean() for k in range(6)]) for p in ("night", "snow")
    )
    assert night < 60
    assert snow > 170
