"""Sheets and the settings that travel in pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.mask import ConceptMask
from cones.plot import Row, density_picture, overlay, picture_sheet, read_settings, save_picture


def test_every_picture_is_on_the_sheet() -> None:
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    images = [Image.new("RGB", (8, 8), colour) for colour in colours]
    sheet = picture_sheet([Row("one", images[:2], ["a", "b"]), Row("two", images[2:])], side=16)
    found = dict((pixel, count) for count, pixel in sheet.getcolors(1 << 20))
    assert [found[image.getpixel((0, 0))] for image in images] == [256, 256, 256]


def test_settings_travel_in_the_picture(tmp_path: Path) -> None:
    settings = {"prompt": "a V* Katze im Grünen", "seed": 3, "guidance": 7.5}
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.png", settings)
    assert read_settings(tmp_path / "a.png") == settings
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    (tmp_path / "b.png").write_text("no picture")
    assert read_settings(tmp_path / "b.png") is None


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match="a.png"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.png", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_density_picture_says_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn{}.to_{}.weight"
    hits = {name.format(a, r): torch.eye(4, dtype=torch.bool) for a in (1, 2) for r in "kv"}
    density_picture(ConceptMask.where(hits), tmp_path / "a.png", title="V* cat")
    assert read_settings(tmp_path / "a.png") == {"neurons": 16, "density": 0.25}


def test_overlay_is_light_where_the_map_is_high_and_keeps_the_picture_in_grey():
    picture = Image.new("RGB", (4, 4), (100, 100, 100))
    picture.putpixel((0, 0), (200, 200, 200))
    lit = overlay(picture, np.array([[2.0, 0.0], [1.0, 2.0]]).repeat(2, 0).repeat(2, 1).tolist())
    assert lit.size == (4, 4)
    heat = 0.35 * 100 + 0.65 * np.array([[252, 253, 191], [0, 0, 4], [182, 54, 121]])
    for at, expected in zip(((0, 1), (3, 0), (0, 3)), heat, strict=True):
        assert np.abs(np.array(lit.getpixel(at)) - expected).max() <= 1
    brighter = np.array(lit.getpixel((0, 0))) - np.array(lit.getpixel((0, 1)))
    assert np.abs(brighter - 0.35 * 100).max() <= 1
    assert max(overlay(picture, [[0.0]]).getpixel((1, 1))) == int(0.35 * 100 + 0.65 * 4)
