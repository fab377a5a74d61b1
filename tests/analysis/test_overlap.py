"""Overlap keeps the laws of sets, and chance is the hypergeometric distribution."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from cones.analysis.overlap import Overlap, block_of, by_block, kind_of, overlap
from cones.errors import MaskError
from cones.mask import Mask

DOWN = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight"
UP = "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v.weight"
SHAPES = {DOWN: (6, 5), UP: (4, 10)}


def mask(seed: int, shapes: dict[str, tuple[int, ...]] = SHAPES, density: float = 0.4) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    return Mask.where({n: torch.rand(s, generator=draw) < density for n, s in shapes.items()})


def members(mask: Mask, name: str) -> set[int]:
    return set(mask.indices[name].tolist())


def test_counts_are_those_of_sets() -> None:
    a, b = mask(1), mask(2)
    blocks = by_block(a, b)
    assert list(blocks) == [("down 0", "self K"), ("up 1", "cross V")]
    for name, found in zip(SHAPES, blocks.values(), strict=True):
        ours, theirs = members(a, name), members(b, name)
        counts = (found.first, found.second, found.shared)
        assert counts == (len(ours), len(theirs), len(ours & theirs))
        assert found.jaccard == pytest.approx(len(ours & theirs) / len(ours | theirs))
        assert found.weights == math.prod(SHAPES[name])


@pytest.mark.parametrize("counts", [(7, 12, 3, 40), (1, 1, 0, 2), (40, 9, 9, 40), (0, 5, 0, 40)])
def test_chance_is_hypergeometric(counts: tuple[int, int, int, int]) -> None:
    first, second, shared, weights = counts
    found = Overlap.of(*counts)
    chance = hypergeom(weights, first, second)
    with np.errstate(all="ignore"):  # of its higher moments, which may not exist
        mean, variance = chance.mean(), chance.var()
    assert found.expected == pytest.approx(float(mean))
    assert found.variance == pytest.approx(float(variance))
    if variance:
        assert found.z == pytest.approx(float((shared - mean) / variance**0.5))
    else:
        assert found.z is None
    assert found.jaccard_by_chance == pytest.approx(float(mean / (first + second - mean)))


def test_layers_of_a_block_add_up() -> None:
    shapes = {DOWN: (6, 5), DOWN.replace("attentions.0", "attentions.1"): (2, 3)}
    a, b = mask(1, shapes), mask(2, shapes)
    alone = [Mask({name: shapes[name]}, {name: a.indices[name]}) for name in shapes]
    one, other = (overlap(part, b) for part in alone)
    assert by_block(a, b) == {("down 0", "self K"): one + other}
    assert overlap(a, b) == one + other


def test_order_does_not_matter_but_for_names() -> None:
    a, b = mask(1), mask(2)
    ab, ba = overlap(a, b), overlap(b, a)
    assert (ab.first, ab.second) == (ba.second, ba.first)
    assert (ab.shared, ab.jaccard) == (ba.shared, ba.jaccard)
    assert (ab.expected, ab.variance) == pytest.approx((ba.expected, ba.variance))


def test_random_masks_share_what_chance_says() -> None:
    shapes = {UP: (200, 200)}
    assert abs(overlap(mask(1, shapes), mask(2, shapes)).z or 0) < 4
    same = overlap(mask(1, shapes), mask(1, shapes))
    assert same.jaccard == 1
    assert (same.z or 0) > 50


def test_layers_of_one_alone_are_left_out_and_empty_masks_share_nothing() -> None:
    only = mask(1, {UP: SHAPES[UP]})
    assert list(by_block(only, mask(2))) == [("up 1", "cross V")]
    nothing = overlap(Mask.empty(SHAPES), Mask.empty(SHAPES))
    assert (nothing.jaccard, nothing.jaccard_by_chance, nothing.z) == (0, 0, None)


def test_other_models_are_refused() -> None:
    with pytest.raises(MaskError):
        overlap(mask(1), mask(1, {UP: (5, 10)}))


def test_names_are_read() -> None:
    mid = "mid_block.attentions.1.transformer_blocks.0.attn2.to_k.weight"
    names = (DOWN, mid, UP, "w")
    assert [block_of(name) for name in names] == ["down 0", "mid", "up 1", "w"]
    assert [kind_of(name) for name in names] == ["self K", "cross K", "cross V", "other"]
    assert kind_of("a.to_v.b") == "other"
