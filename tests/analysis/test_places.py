"""Names are read right, and rows and heads are those of the matrix."""

import pytest
import torch

from cones.analysis.places import (
    block_of,
    in_heads,
    in_order,
    in_rows,
    kind_of,
    likely_heads,
    short,
)
from cones.errors import MaskError
from cones.mask import Mask

NAME = "{}.attentions.1.transformer_blocks.0.attn{}.to_{}.weight"
DOWN, MID, UP = (
    NAME.format(block, number, kind)
    for block, number, kind in (
        ("down_blocks.0", 1, "k"),
        ("mid_block", 2, "k"),
        ("up_blocks.2", 2, "v"),
    )
)


def test_names_are_read() -> None:
    assert [block_of(name) for name in (DOWN, MID, UP, "w")] == ["down 0", "mid", "up 2", "w"]
    assert [kind_of(name) for name in (DOWN, MID, UP, "a.to_v.b")] == [
        "self K", "cross K", "cross V", "other",
    ]  # fmt: skip
    assert short(UP) == "up 2.1.0 cross V"
    assert short(MID) == "mid 1.0 cross K"
    assert short("net.weight") == "net"
    assert in_order([UP, "other", MID, DOWN]) == [DOWN, MID, UP, "other"]


def test_rows_and_heads_are_counted() -> None:
    hits = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    mask = Mask.where({UP: hits})
    assert in_rows(mask, UP).tolist() == [int(row.sum()) for row in hits]
    assert in_heads(mask, UP, heads=3).tolist() == [int(part.sum()) for part in hits.split(2)]
    with pytest.raises(MaskError, match="found 6 rows"):
        in_heads(mask, UP, heads=4)
    with pytest.raises(MaskError, match="absent"):
        in_rows(mask, DOWN)
    with pytest.raises(MaskError, match=r"of shape \(6,\)"):
        in_rows(Mask.where({"w": hits[:, 0]}), "w")


@pytest.mark.parametrize(
    ("rows", "text", "heads"), [(320, 768, 8), (320, 1024, 5), (640, 2048, 10), (320, 32, None)]
)
def test_heads_are_guessed_by_the_width_of_the_text(rows: int, text: int, heads: int) -> None:
    mask = Mask.empty({DOWN: (rows, rows), UP: (rows, text), "bias": (rows,)})
    expected = {} if heads is None else {DOWN: heads, UP: heads}
    assert likely_heads(mask) == expected
