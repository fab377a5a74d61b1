"""Counts on masks small enough to count by eye."""

import itertools
import math
import statistics

import pytest
import torch

from cones.errors import MaskError
from cones.mask import ConceptMask
from cones.stats import (
    by_kind,
    density_per_site,
    multiplicity,
    overlap,
    overlap_per_site,
    overlap_within,
)

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
    found = overlap(a, b)
    assert (found["first"], found["second"], found["shared"], found["union"]) == (5, 4, 2, 7)
    assert found["jaccard"] == 2 / 7
    assert found["expected"] == pytest.approx(3 * 2 / 10 + 2 * 2 / 4)
    empty = overlap(mask(), mask())
    assert (empty["shared"], empty["jaccard"], empty["expected"], empty["z"]) == (0, 0, 0, None)
    with pytest.raises(MaskError, match="different parameters"):
        overlap(a, ConceptMask.empty({}))


def drawn(total: int, first: int, second: int) -> list[int]:
    """List the overlap of every subset of a size with a fixed one."""
    fixed = set(range(second))
    return [len(fixed & set(c)) for c in itertools.combinations(range(total), first)]


@pytest.mark.parametrize(("first", "second"), [(3, 2), (1, 9), (0, 4), (10, 4), (5, 5)])
def test_chance_is_that_of_all_subsets(first, second):
    every = drawn(10, first, second)
    found = overlap(mask(list(range(first))), mask(list(range(second))))
    assert found["expected"] == pytest.approx(statistics.mean(every))
    assert found["deviation"] == pytest.approx(statistics.pstdev(every))
    if found["deviation"]:
        z = (min(first, second) - statistics.mean(every)) / statistics.pstdev(every)
        assert found["z"] == pytest.approx(z)
    else:
        assert found["z"] is None


def test_parameters_are_independent():
    a, b = mask([1, 2, 3], [0, 1], [], [5, 7]), mask([3, 4], [1, 2], [1], [7])
    sites, whole = overlap_per_site(a, b), overlap(a, b)
    assert list(sites) == list(SHAPES)
    every = [drawn(10, 3, 2), drawn(4, 2, 2), drawn(20, 2, 1)]
    sums = [sum(each) for each in itertools.product(*every)]
    assert whole["expected"] == pytest.approx(statistics.mean(sums))
    assert whole["deviation"] == pytest.approx(statistics.pstdev(sums))
    assert whole["shared"] == sum(site["shared"] for site in sites.values()) == 3
    assert sites["down.attn1.to_v.weight"]["z"] is None


def test_chance_within_groups():
    a, b = mask([1, 2, 3]), mask([2, 3, 4])
    whole = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in SHAPES.items()}
    assert overlap_within(a, b, whole) == overlap(a, b)
    halves = whole | {"down.attn2.to_v.weight": torch.arange(10).view(2, 5) // 5}
    found = overlap_within(a, b, halves)
    every = drawn(5, 3, 3)
    assert (found["first"], found["second"], found["shared"]) == (3, 3, 2)
    assert found["expected"] == pytest.approx(statistics.mean(every))
    assert found["deviation"] == pytest.approx(statistics.pstdev(every))


def test_multiplicity():
    masks = [mask([1, 2, 3], [0]), mask([3, 4], [0]), mask([3, 9], [])]
    rows = multiplicity(masks)
    total = sum(math.prod(shape) for shape in SHAPES.values())
    assert [row["weights"] for row in rows] == [total - 6, 4, 1, 1]
    assert [row["concepts"] for row in rows] == [0, 1, 2, 3]
    assert sum(row["expected"] for row in rows) == pytest.approx(total)
    pair = multiplicity(masks[:2])
    assert pair[2]["expected"] == pytest.approx(overlap(*masks[:2])["expected"])
    thrice = 10 * 0.3 * 0.2 * 0.2
    assert rows[3]["expected"] == pytest.approx(thrice)
    with pytest.raises(MaskError, match="found 0 masks"):
        multiplicity([])


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
