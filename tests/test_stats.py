"""Counts on masks small enough to count by eye."""

import pytest
import torch

from cones.errors import MaskError
from cones.mask import ConceptMask
from cones.stats import by_kind, density_per_site, overlap

SHAPES = {
    "down.attn2.to_v.weight": (2, 5),
    "down.attn1.to_k.weight": (4, 1),
    "down.attn1.to_v.weight": (4, 1),
    "up.attn2.to_v.weight": (10, 2),
    "mid.proj.weight": (0,),
}


def mask(*positions: list[int]) -> ConceptMask:
    """Place neurons in the first parameters of ``SHAPES``."""
    filled = [*positions, *[[]] * (len(SHAPES) - len(positions))]
    tensors = [torch.tensor(p, dtype=torch.int64) for p in filled]
    return ConceptMask(SHAPES, dict(zip(SHAPES, tensors, strict=True)))


def test_density_per_site():
    found = density_per_site(mask([1, 2, 3], [0]))
    assert list(found.values()) == [0.3, 0.25, 0, 0, 0]


def test_overlap():
    a, b = mask([1, 2, 3], [0, 1]), mask([3, 4], [1, 2])
    assert overlap(a, b) == {"shared": 2, "jaccard": 2 / 7, "expected": 3 * 2 / 10 + 2 * 2 / 4}
    assert overlap(mask(), mask()) == {"shared": 0, "jaccard": 0, "expected": 0}
    with pytest.raises(MaskError, match="different parameters"):
        overlap(a, ConceptMask.empty({}))


def test_expected_overlap_is_what_random_masks_share():
    a, b = mask([1, 2, 3, 5], [0, 1], [2], list(range(9))), mask([3, 4], [1, 2], [1], [0, 15])
    g = torch.Generator().manual_seed(0)
    shared = [len(a.random_like(g) & b.random_like(g)) for _ in range(400)]
    assert sum(shared) / 400 == pytest.approx(overlap(a, b)["expected"], abs=0.2)


def test_by_kind():
    rows = by_kind(mask([1, 2, 3], [0], [], [7]))
    assert [tuple(row.values()) for row in rows] == [
        ("self", "K", 1, 4, 0.25),
        ("self", "V", 0, 4, 0.0),
        ("cross", "V", 4, 30, 4 / 30),
        ("other", "other", 0, 0, 0.0),
    ]
    assert list(rows[0]) == ["attention", "role", "neurons", "total", "density"]
