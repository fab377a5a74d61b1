"""Selection against brute force: exact counts, ties, nesting, guard and within."""

import pytest
import torch
from torch import Tensor

from cones.errors import MaskError
from cones.mask import Mask
from cones.search import select
from cones.search.loss import flat, split
from cones.search.select import eligible, highest, nested, top
from toy_model import drawn

SHAPES = {"b.to_v": (5, 4), "a.to_k": (3, 6)}


def scores(seed: int = 0, *, ties: bool = False) -> dict[str, Tensor]:
    found = {n: drawn(seed + k, *s) for k, (n, s) in enumerate(SHAPES.items())}
    return {n: (s * 2).round() if ties else s for n, s in found.items()}


def brute(score: dict[str, Tensor], count: int, allowed: set | None = None) -> set:
    """Sort all entries by score, name and position, and take the first."""
    entries = [
        (-value, name, place)
        for name, s in score.items()
        for place, value in enumerate(s.flatten().tolist())
        if allowed is None or (name, place) in allowed
    ]
    return {(name, place) for _, name, place in sorted(entries)[:count]}


def held(mask: Mask) -> set:
    return {(name, place) for name in mask for place in mask.indices[name].tolist()}


def best(score: dict[str, Tensor], count: int, allowed: dict | None = None) -> Mask:
    hits = highest(flat(score), count, None if allowed is None else flat(allowed))
    return Mask.where(split(hits, score))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 20, 37, 38, 99])
def test_the_highest_are_those_of_a_full_sort(count: int, ties: bool) -> None:
    for seed in range(5):
        score = scores(seed, ties=ties)
        assert held(best(score, count)) == brute(score, count)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_among_many_the_highest_are_the_same(
    seed: int, ties: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "SAMPLE", 400)
    score = drawn(seed, 9000) * (1 if seed else torch.linspace(0, 1, 9000))
    score = (score * 4).round() if ties else score
    score[:: seed + 2] = -torch.inf
    ranked = score.sort(descending=True).values
    for count in (1, 2, 119, 2500, 4499):
        assert float(highest(score, count).sum()) == count
        assert float(score[highest(score, count)].min()) == float(ranked[count - 1])


@pytest.mark.parametrize("ties", [False, True])
def test_only_allowed_entries_are_taken(ties: bool) -> None:
    score, allowed = scores(3, ties=ties), {n: s > 0 for n, s in scores(9).items()}
    places = held(Mask.where(allowed))
    for count in (1, 5, len(places), 38):
        assert held(best(score, count, allowed)) == brute(score, count, places)
    assert held(Mask.where(allowed)) == places


def test_a_density_is_a_threshold_between_two_scores() -> None:
    score = scores(1)
    ranked = flat(score).sort(descending=True).values
    tau = float(ranked[4] + ranked[5]) / 2
    expected = Mask.where({name: each > tau for name, each in score.items()})  # Eq. A20
    assert top(flat(score), score, density=5 / 38) == expected


def test_only_positive_scores_are_selected() -> None:
    score = scores(2)
    positive = sum(int((s > 0).sum()) for s in score.values())
    found = top(flat(score), score, density=1.0)
    assert len(found) == positive
    assert held(found) == brute(score, positive)


def test_growing_densities_are_nested() -> None:
    for seed in range(5):
        score = {n: s.abs() for n, s in scores(seed, ties=True).items()}
        masks = [top(flat(score), score, density=d) for d in (0.05, 0.1, 0.3, 0.6)]
        assert all(a <= b for a, b in zip(masks, masks[1:], strict=False))


def test_levels_are_the_best_shares_of_a_mask() -> None:
    score, mask = scores(5), Mask.where({n: s < 1 for n, s in scores(6).items()})
    levels = nested(flat(score), mask, (0.5, 0.25))
    assert [len(level) for level in levels] == [
        round(len(mask) / 4),
        round(len(mask) / 2),
        len(mask),
    ]
    assert levels[-1] == mask
    for level in levels:
        assert held(level) == brute(score, len(level), held(mask))
    assert levels[0].shapes == mask.shapes


def test_a_guard_leaves_large_weights_alone() -> None:
    weights = scores(7)
    for name, hit in split(eligible(weights, guard=1.5), weights).items():
        values = weights[name].double()
        spread = (values - values.mean()).square().mean().sqrt()
        assert torch.equal(hit, values.abs() < 1.5 * spread)
    assert bool(eligible(weights).all())
    even = {"w": torch.tensor([-1.0, 1.0, -1.0, 1.0])}  # of standard deviation 1
    assert not bool(eligible(even, guard=0.9).any())
    positive = {n: torch.ones_like(w) for n, w in weights.items()}
    found = top(flat(positive), weights, density=1.0, guard=1.0)
    assert found == Mask.where(split(eligible(weights, guard=1.0), weights))


def test_within_a_mask_nothing_else_is_shut() -> None:
    score = {n: s.abs() for n, s in scores(8).items()}
    mask = Mask.where({n: s > 0.5 for n, s in scores(9).items()})
    found = top(flat(score), score, density=0.1, within=mask)
    assert held(found) == brute(score, 4, held(mask))
    few = mask & Mask.where({"a.to_k": torch.ones(SHAPES["a.to_k"], dtype=torch.bool)})
    assert held(top(flat(score), score, density=1.0, within=few)) == held(few)
    with pytest.raises(MaskError, match="a.to_k"):
        top(flat(score), score, density=0.1, within=Mask.empty({"a.to_k": (2, 2)}))


def test_the_order_of_a_dictionary_decides_no_tie() -> None:
    score = {n: torch.ones(s) for n, s in SHAPES.items()}
    turned = dict(reversed(score.items()))
    found = (top(flat(each), each, density=0.5) for each in (score, turned))
    assert next(found) == next(found)
