"""Rows, columns, heads and pictures of a layer, counted on dense booleans."""

import pytest
import torch

from cones.errors import MaskError
from cones.layout import block_of, by_block, by_column, by_head, by_row, in_order, who_holds
from cones.mask import ConceptMask

SITE = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.weight"
SHAPES = {
    "up_blocks.0.attentions.0.attn1.to_k.weight": (3, 4),
    SITE: (6, 5),
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v.weight": (2, 5),
    "mid_block.attentions.0.attn2.to_k.weight": (4,),
    "down_blocks.1.attentions.0.attn1.to_v.weight": (2, 2),
}


def draw(seed: int, density: float = 0.4) -> ConceptMask:
    g = torch.Generator().manual_seed(seed)
    return ConceptMask.where({n: torch.rand(s, generator=g) < density for n, s in SHAPES.items()})


def test_rows_columns_and_heads_add_up():
    mask = draw(0)
    hits = mask.hits()[SITE]
    assert by_row(mask, SITE) == hits.sum(1).tolist()
    assert by_column(mask, SITE) == hits.sum(0).tolist()
    assert len(set(by_row(mask, SITE))) > 1
    assert by_head(mask, SITE, heads=2) == [int(hits[:3].sum()), int(hits[3:].sum())]
    assert by_head(mask, SITE, heads=1) == [len(mask.indices[SITE])]
    assert by_head(mask, SITE, heads=6) == by_row(mask, SITE)


def test_what_has_no_heads_is_refused():
    for heads in (4, 0):
        with pytest.raises(MaskError, match=f"found 6 rows .* for {heads} heads"):
            by_head(draw(0), SITE, heads=heads)
    with pytest.raises(MaskError, match=r"shape \(4,\), expected rows and columns"):
        by_row(draw(0), "mid_block.attentions.0.attn2.to_k.weight")
    with pytest.raises(MaskError, match="'x' was not searched"):
        by_column(draw(0), "x")


def test_who_holds_which():
    masks = [draw(seed) for seed in range(3)]
    picture = who_holds(masks, SITE)
    hits = [mask.hits()[SITE] for mask in masks]
    assert picture.shape == (6, 5)
    for place in torch.cartesian_prod(torch.arange(6), torch.arange(5)).tolist():
        owners = [k for k, hit in enumerate(hits, 1) if hit[tuple(place)]]
        expected = owners[0] if len(owners) == 1 else 4 if owners else 0
        assert picture[tuple(place)] == expected
    assert set(picture.unique().tolist()) == {0, 1, 2, 3, 4}
    with pytest.raises(MaskError, match="different models"):
        who_holds([masks[0], ConceptMask.empty({})], SITE)
    with pytest.raises(MaskError, match="was not searched"):
        who_holds(masks, "x")


def test_blocks_come_in_the_order_of_the_network():
    mask = draw(1)
    rows = by_block(mask)
    blocks = ["down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"]
    assert [row["block"] for row in rows] == blocks
    assert sum(row["neurons"] for row in rows) == len(mask)
    assert (rows[3]["attention"], rows[3]["role"], rows[3]["total"]) == ("cross", "V", 40)
    assert rows[3]["density"] == rows[3]["neurons"] / 40
    assert [block_of(name) for name in in_order(mask)] == [*blocks, "up_blocks.1"]
    assert in_order(["b.x", "a.y"]) == ["b.x", "a.y"]
