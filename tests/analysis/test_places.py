"""Names are read right, and rows and heads are those of the matrix."""

import pytest
import torch

from cones.analysis.places import block_of, in_heads, in_order, kind_of, likely_heads, short
from cones.errors import MaskError
from cones.mask import Mask

NAME = "{}.attentions.1.transformer_blocks.0.attn{}.to_{}.weight"
DOWN = NAME.format("down_blocks.0", 1, "k")
MID = NAME.format("mid_block", 2, "k")
UP = NAME.format("up_blocks.2", 2, "v")


def test_names_are_read() -> None:
    assert [block_of(name) for name in (DOWN, MID, UP, "w")] == ["down 0", "mid", "up 2", "w"]
    kinds = ["self K", "cross K", "cross V", "other"]
    assert [kind_of(name) for name in (DOWN, MID, UP, "a.to_v.b")] == kinds
    assert short(UP) == "up 2.1.0 cross V"
    assert short(MID) == "mid 1.0 cross K"
    assert short("net.weight") == "net"
    assert in_order([UP, "other", MID, DOWN]) == [DOWN, MID, UP, "other"]


def test_rows_and_heads_are_counted() -> None:
    hits = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    mask = Mask.where({UP: hits, "w": hits[:, 0]})
    assert in_heads(mask, UP, heads=6).tolist() == [int(row.sum()) for row in hits]
    assert in_heads(mask, UP, heads=3).tolist() == [int(part.sum()) for part in hits.split(2)]
    for name, heads in ((UP, 4), (UP, 0), (DOWN, 3), ("w", 3)):
        with pytest.raises(MaskError, match=f"for {heads} heads"):
            in_heads(mask, name, heads=heads)


@pytest.mark.parametrize(
    ("rows", "text", "heads"),
    [(256, 384, 4), (320, 768, 8), (320, 1024, 5), (640, 2048, 10), (320, 32, None)],
)
def test_heads_are_guessed_by_the_width_of_the_text(rows: int, text: int, heads: int) -> None:
    mask = Mask.empty({DOWN: (rows, rows), UP: (rows, text), "bias": (rows,)})
    expected = {} if heads is None else {DOWN: heads, UP: heads}
    assert likely_heads(mask) == expected
