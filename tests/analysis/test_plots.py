"""Pictures show what they say."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.analysis.plots import densities, overlay
from cones.errors import ConesError
from cones.mask import Mask

NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn{}.to_{}.weight"
MASK = Mask.where(
    {NAME.format(a, r): torch.eye(4, dtype=torch.bool) for a in (1, 2) for r in "kv"}
)


def test_overlay_is_light_where_the_map_is_high_and_keeps_the_picture_in_grey() -> None:
    picture = Image.new("RGB", (4, 4), (100, 100, 100))
    picture.putpixel((0, 0), (200, 200, 200))
    found = torch.tensor([[2.0, 0.0], [1.0, 2.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    lit = np.asarray(overlay(picture, found)).astype(float)
    expected = 0.35 * 100 + 0.65 * np.array([[252, 253, 191], [0, 0, 4], [182, 54, 121]])
    for (x, y), colour in zip(((0, 1), (3, 0), (0, 3)), expected, strict=True):
        assert np.abs(lit[y, x] - colour).max() <= 1
    assert np.abs(lit[0, 0] - lit[1, 0] - 35).max() <= 1
    assert overlay(picture, torch.zeros(2, 2)).size == (4, 4)


def test_densities_are_drawn_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    densities(MASK, tmp_path / "a.png", title="V* cat")
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width > drawn.height > 100
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConesError, match=r"cones\[plot\]"):
        densities(MASK, tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
