"""Masks keep the laws of sets, whatever parameters they cover."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cones.errors import MaskError
from cones.mask import Mask

SHAPES = {"a.to_k": (3, 4), "a.to_v": (7,), "b.to_k": ()}


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Draw a mask over some of ``SHAPES``."""
    names = draw(st.sets(st.sampled_from(sorted(SHAPES))))
    indices = {}
    for name in names:
        places = draw(st.sets(st.integers(0, math.prod(SHAPES[name]) - 1)))
        indices[name] = torch.tensor(sorted(places), dtype=torch.int64)
    return Mask({name: SHAPES[name] for name in names}, indices)


def neurons(mask: Mask) -> set[tuple[str, int]]:
    """List the neurons as Python knows sets: the independent reference."""
    return {(name, int(k)) for name in mask for k in mask.indices[name]}


@settings(deadline=None, max_examples=60)
@given(masks(), masks(), masks())
def test_operations_are_those_of_sets(a: Mask, b: Mask, c: Mask) -> None:
    x, y = neurons(a), neurons(b)
    assert neurons(a | b) == x | y
    assert neurons(a & b) == x & y
    assert neurons(a - b) == x - y
    assert neurons(a ^ b) == x ^ y
    assert (a <= b) == (x <= y)
    assert (a == b) == (x == y)
    assert len(a) == len(x)
    assert bool(a) == bool(x)
    assert (a | b) | c == a | (b | c)
    assert a & (a | b) == a
    assert (a == b) <= (hash(a) == hash(b))


@settings(deadline=None, max_examples=30)
@given(masks(), masks())
def test_coverage_follows_the_operation(a: Mask, b: Mask) -> None:
    assert (a | b).shapes.keys() == (a ^ b).shapes.keys() == a.shapes.keys() | b.shapes.keys()
    assert (a & b).shapes.keys() == a.shapes.keys() & b.shapes.keys()
    assert (a - b).shapes == a.shapes
    assert (a | b).total == sum(math.prod(SHAPES[name]) for name in {*a, *b})


def test_zeros_of_the_papers_mask_are_the_neurons() -> None:
    hits = {"w": torch.tensor([[True, False], [False, True]])}
    mask = Mask.where(hits)
    assert mask.indices["w"].tolist() == [0, 3]
    assert torch.equal(mask.hits()["w"], hits["w"])
    assert mask.density == 0.5
    assert repr(mask) == "Mask(2 of 4 weights, 50.00%, in 1 parameters)"


def test_memory_does_not_depend_on_shapes() -> None:
    shapes = {"w": (1 << 20, 1 << 20)}  # booleans would take a terabyte
    a = Mask(shapes, {"w": torch.tensor([5, 1 << 39])})
    b = Mask(shapes, {"w": torch.tensor([5])})
    assert (a & b) == b
    assert len(a | b) == 2
    assert len(a ^ b) == 1
    assert len(a.random_like(torch.Generator().manual_seed(0))) == 2


def test_order_of_names_matters_to_nothing() -> None:
    one = {"a": (100,), "b": (50,)}
    two = dict(reversed(one.items()))
    picks = {"a": torch.tensor([1, 2]), "b": torch.tensor([3])}
    first, second = Mask(one, picks), Mask(two, picks)
    assert first == second
    assert first.digest == second.digest
    draws = [m.random_like(torch.Generator().manual_seed(1)) for m in (first, second)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("count", "numel"), [(0, 5), (3, 1000), (100, 1000), (400, 1000), (1000, 1000)]
)
def test_a_random_mask_keeps_counts_and_is_uniform(count: int, numel: int) -> None:
    mask = Mask({"w": (numel,)}, {"w": torch.arange(count)})
    generator = torch.Generator().manual_seed(0)
    draws = [mask.random_like(generator) for _ in range(50)]
    assert {len(draw) for draw in draws} == {count}
    if 0 < count < numel:
        places = torch.cat([draw.indices["w"] for draw in draws]).double() / numel
        assert abs(places.mean() - 0.5) < 4 * 0.29 / math.sqrt(len(places))
        assert len({draw.digest for draw in draws}) == 50


def test_two_shapes_of_one_name_are_refused() -> None:
    a, b = Mask.empty({"w": (2, 3)}), Mask.empty({"w": (3, 2)})
    for operation in ("__or__", "__and__", "__sub__", "__xor__", "__le__"):
        with pytest.raises(MaskError, match="'w' has shape"):
            getattr(a, operation)(b)


@pytest.mark.usefixtures("unchecked")
def test_malformed_masks_are_refused() -> None:
    one = torch.tensor([0])
    for shapes, indices in (({"a": (1,)}, {}), ({}, {"a": one})):
        with pytest.raises(MaskError, match="'a' is in only one of shapes and indices"):
            Mask(shapes, indices)
    for bad in ([1, 0], [0, 0], [-1], [4]):
        with pytest.raises(MaskError, match="expected rising int64 positions"):
            Mask({"a": (4,)}, {"a": torch.tensor(bad)})
    with pytest.raises(MaskError, match="are torch.int32.*expected rising int64"):
        Mask({"a": (4,)}, {"a": one.int()})
    with pytest.raises(MaskError, match="compare first"):
        Mask.where({"a": torch.ones(3)})


def test_masks_are_values() -> None:
    index = torch.tensor([1, 3, 5])
    mask = Mask({"w": (6,)}, {"w": index})
    for a, b in itertools.product((mask, Mask({"w": (6,)}, {"w": index[:2]})), repeat=2):
        assert (a == b) == (a is b)
    assert mask != "w"
    assert len({mask, Mask({"w": (6,)}, {"w": index.clone()})}) == 1
