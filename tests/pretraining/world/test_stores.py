import json
from pathlib import Path

import numpy as np
import pytest

from pretraining.world.looks import draw_look, photograph
from pretraining.world.production import Part, _look_part, compose_pictures
from pretraining.world.scenes import compose
from pretraining.world.stores import LookStore, PictureStore


@pytest.fixture(scope="module")
def part() -> Part:
    return _look_part(0, 16, views=0, seed=0)


@pytest.fixture
def folder(part: Part, tmp_path: Path) -> Path:
    array, rows = part
    np.save(tmp_path / "looks-00000.npy", array)
    (tmp_path / "looks-00000.json").write_text(json.dumps({"made": {}, "rows": rows}))
    return tmp_path


def test_parts_do_not_depend_on_where_they_are_cut(part: Part) -> None:
    array, rows = _look_part(5, 2, views=0, seed=0)
    assert np.array_equal(array, part[0][5:7])
    assert rows == part[1][5:7]


def test_a_store_gives_back_the_views(folder: Path) -> None:
    view = photograph(draw_look(3), np.random.default_rng((0, 1, 3)))
    store = LookStore.open(folder)
    assert np.array_equal(store.rgba(3), view.rgba)
    assert store.labels(3).noun == draw_look(3).noun
    assert store.rows[3]["pitch"] == view.pitch


def test_named_looks_keep_their_names() -> None:
    array, rows = _look_part(3, 2, views=4, seed=0)
    store = LookStore([array], rows)
    names = [store.labels(k).name for k in range(2)]
    assert names[0]
    assert names[0] != names[1]
    assert not store.unnamed


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pictures-"):
        PictureStore.open(tmp_path)


@pytest.mark.slow
def test_composed_parts_are_kept_and_missing_ones_made_again(folder: Path) -> None:
    looks = LookStore.open(folder)
    out = folder / "pictures"
    compose_pictures(out, folder, 6, start=3, size=32)
    store = PictureStore.open(out)
    assert [row["number"] for row in store.rows] == list(range(3, 9))
    expected = compose(4, looks, size=32)
    assert np.array_equal(store.pixels([1])[0], expected.pixels)
    assert store.rows[1]["caption"] == expected.caption
    assert [tuple(t["box"]) for t in store.rows[1]["things"]] == [t.box for t in expected.things]
    written = (out / "pictures-00000.npy").stat().st_mtime_ns
    compose_pictures(out, folder, 6, start=3, size=32)
    assert (out / "pictures-00000.npy").stat().st_mtime_ns == written
    compose_pictures(out, folder, 6, start=3, size=32, seed=1)
    assert not np.array_equal(PictureStore.open(out).pixels([1])[0], expected.pixels)
    assert not list(out.glob(".*"))
