"""Laws of the mask algebra, and the messages of everything it refuses."""

import subprocess
import sys

import pytest
import torch

from cones.errors import MaskError
from cones.mask import ConceptMask

SHAPES = {"b.to_v.weight": (5, 7), "a.to_k.weight": (4, 3), "c.to_k.weight": (2, 2)}


def draw(seed: int, density: float = 0.4) -> ConceptMask:
    """Draw booleans and keep them as a mask."""
    generator = torch.Generator().manual_seed(seed)
    return ConceptMask.where(
        {n: torch.rand(s, generator=generator) < density for n, s in SHAPES.items()}
    )


def pairs(mask: ConceptMask) -> set[tuple[str, int]]:
    """Give the same mask as a Python set, the independent reference."""
    return {(n, i) for n, index in mask.indices.items() for i in index.tolist()}


@pytest.fixture(params=range(5))
def abc(request: pytest.FixtureRequest) -> tuple[ConceptMask, ...]:
    return tuple(draw(3 * request.param + k) for k in range(3))


def test_operators_are_set_operators(abc):
    a, b, _ = abc
    assert pairs(a | b) == pairs(a) | pairs(b)
    assert pairs(a & b) == pairs(a) & pairs(b)
    assert pairs(a - b) == pairs(a) - pairs(b)
    assert pairs(a ^ b) == pairs(a) ^ pairs(b)


def test_algebra(abc):
    a, b, c = abc
    none = ConceptMask.empty(SHAPES)
    assert (a | b) | c == a | (b | c)
    assert a & (a | b) == a
    assert a & (b | c) == (a & b) | (a & c)
    assert len(a | b) + len(a & b) == len(a) + len(b)
    assert a ^ b == (a | b) - (a & b)
    assert a | none == a
    assert a - a == none
    assert (a & b) <= a <= (a | b)
    assert not (a | b) <= (a & b)
    assert a.issubset(a)


def test_operators_leave_their_operands_alone(abc):
    a, b, _ = abc
    before = a.digest, pairs(a), pairs(b)
    assert a | b
    assert before == (ConceptMask(a.shapes, a.indices).digest, pairs(a), pairs(b))


def test_where_and_hits_are_inverses(abc):
    a = abc[0]
    hits = a.hits()
    assert {n: tuple(h.shape) for n, h in hits.items()} == SHAPES
    assert ConceptMask.where(hits) == a
    assert sum(int(h.sum()) for h in hits.values()) == len(a)


def test_where_is_row_major():
    hits = torch.zeros(5, 7, dtype=torch.bool)
    hits[2, 3] = True
    assert ConceptMask.where({"w": hits}).indices["w"].tolist() == [17]
    assert ConceptMask.where({"w": hits.t()}).indices["w"].tolist() == [3 * 5 + 2]


def test_counts():
    mask = ConceptMask(
        {"w": (2, 5), "v": (10,)}, {"w": torch.tensor([0, 9]), "v": torch.tensor([3])}
    )
    assert (len(mask), mask.total, mask.density) == (3, 20, 0.15)
    assert ConceptMask.empty({}).density == 0
    assert not ConceptMask.empty({"w": (2, 5)})
    assert repr(mask) == "ConceptMask(3 of 20 weights, 15.00%, in 2 parameters)"


def test_order_of_names_is_kept_but_does_not_matter(abc):
    a = abc[0]
    turned = ConceptMask({n: SHAPES[n] for n in sorted(SHAPES)}, a.indices)
    assert list(a) == list(SHAPES)
    assert list(turned) == sorted(SHAPES)
    assert (turned == a, hash(turned) == hash(a), turned.digest == a.digest) == (True,) * 3


def test_digest_sees_names_shapes_positions():
    one = ConceptMask({"w": (2, 3)}, {"w": torch.tensor([1])})
    others = [
        ConceptMask({"v": (2, 3)}, {"v": torch.tensor([1])}),
        ConceptMask({"w": (3, 2)}, {"w": torch.tensor([1])}),
        ConceptMask({"w": (2, 3)}, {"w": torch.tensor([2])}),
    ]
    assert len({one.digest, *(m.digest for m in others)}) == 4
    assert one not in others
    assert one != "w"


def test_digest_is_the_same_in_another_process():
    code = (
        "import torch; from cones.mask import ConceptMask;"
        "print(ConceptMask({'w': (2, 3)}, {'w': torch.tensor([1])}).digest)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ConceptMask({"w": (2, 3)}, {"w": torch.tensor([1])}).digest


def test_random_like_keeps_counts_and_covers_positions():
    mask = draw(0)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        drawn = mask.random_like(generator)
        assert {n: len(i) for n, i in drawn.indices.items()} == {
            n: len(i) for n, i in mask.indices.items()
        }
        seen |= pairs(drawn)
    assert len(seen) == mask.total
    again = [mask.random_like(torch.Generator().manual_seed(7)) for _ in range(2)]
    assert again[0] == again[1]


def test_restricted():
    mask = draw(1)
    part = mask.restricted(["c.to_k.weight", "b.to_v.weight"])
    assert list(part) == ["b.to_v.weight", "c.to_k.weight"]
    assert part.indices["b.to_v.weight"].equal(mask.indices["b.to_v.weight"])
    with pytest.raises(MaskError, match="'x' was not searched"):
        mask.restricted(["x"])


@pytest.mark.parametrize(
    "index", [[-1, 2], [2, 2], [3, 1], [0, 12]], ids=["negative", "twice", "unsorted", "outside"]
)
def test_bad_positions_are_refused(index):
    with pytest.raises(MaskError, match=r"strictly increasing positions in \[0, 12\)"):
        ConceptMask({"w": (4, 3)}, {"w": torch.tensor(index)})


@pytest.mark.parametrize(
    "index", [torch.tensor([1.0]), torch.tensor([[1]]), torch.tensor([1], dtype=torch.int32)]
)
def test_bad_kinds_are_refused(index):
    with pytest.raises(Exception, match=r"int64|did not match|violat|type"):
        ConceptMask({"w": (4, 3)}, {"w": index})


def test_names_must_agree():
    with pytest.raises(MaskError, match="'v' is in only one"):
        ConceptMask({"w": (4, 3)}, {"w": torch.tensor([1]), "v": torch.tensor([1])})
    with pytest.raises(Exception, match=r"torch.bool|did not match|violat|type"):
        ConceptMask.where({"w": torch.ones(3)})


def test_masks_of_different_models_do_not_combine():
    a = ConceptMask({"w": (4, 3)}, {"w": torch.tensor([1])})
    b = ConceptMask({"w": (3, 4)}, {"w": torch.tensor([1])})
    with pytest.raises(MaskError, match=r"'w' is \(4, 3\) in one and \(3, 4\) in the other"):
        a | b
    with pytest.raises(MaskError, match=r"absent"):
        a.issubset(ConceptMask.empty({}))
