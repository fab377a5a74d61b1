"""Selection against brute force: exact counts, ties, nesting, guard and within."""

import pytest
import torch
from torch import Tensor

from cones.errors import MaskError, SearchError
from cones.mask import Mask
from cones.search.select import eligible, highest, nested, threshold, top
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


def everywhere() -> dict[str, Tensor]:
    return {n: torch.ones(s, dtype=torch.bool) for n, s in SHAPES.items()}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 20, 37, 38, 99])
def test_the_highest_are_those_of_a_full_sort(count: int, ties: bool) -> None:
    for seed in range(5):
        score = scores(seed, ties=ties)
        found = Mask.where(highest(score, everywhere(), count))
        assert held(found) == brute(score, count)


@pytest.mark.parametrize("ties", [False, True])
def test_only_allowed_entries_are_taken(ties: bool) -> None:
    score, allowed = scores(3, ties=ties), {n: s > 0 for n, s in scores(9).items()}
    places = held(Mask.where(allowed))
    for count in (1, 5, len(places), 38):
        found = Mask.where(highest(score, allowed, count))
        assert held(found) == brute(score, count, places)
    assert held(Mask.where(allowed)) == places


def test_a_threshold_is_equation_a20() -> None:
    score = {"w": torch.tensor([0.5, 1.0, 1.5, -2.0])}
    assert threshold(score, 1.0).indices["w"].tolist() == [2]
    assert threshold(score, 0.9).indices["w"].tolist() == [1, 2]
    with pytest.raises(SearchError, match="tau is 0.0; expected more than 0"):
        threshold(score, 0.0)


def test_a_density_is_a_threshold_between_two_scores() -> None:
    score = scores(1)
    found = top(score, score, density=5 / 38)
    assert len(found) == 5
    ranked = torch.cat([s.flatten() for s in score.values()]).sort(descending=True).values
    assert found == threshold(score, float(ranked[4] + ranked[5]) / 2)


def test_only_positive_scores_are_selected() -> None:
    score = scores(2)
    positive = sum(int((s > 0).sum()) for s in score.values())
    assert len(top(score, score, density=1.0)) == positive
    assert held(top(score, score, density=1.0)) == brute(score, positive)


def test_per_layer_takes_the_share_of_every_parameter() -> None:
    score = {n: s.abs() + (10 if n == "a.to_k" else 0) for n, s in scores(4).items()}
    found = top(score, score, density=0.25, per="layer")
    assert {n: len(i) for n, i in found.indices.items()} == {"b.to_v": 5, "a.to_k": 4}
    for name, s in score.items():
        best = s.flatten().topk(len(found.indices[name])).indices.sort().values
        assert torch.equal(found.indices[name], best)
    whole = top(score, score, density=0.25, per="model")
    assert {n: len(i) for n, i in whole.indices.items()} == {"b.to_v": 0, "a.to_k": 10}


def test_growing_densities_are_nested() -> None:
    for seed in range(5):
        score = {n: s.abs() for n, s in scores(seed, ties=True).items()}
        masks = [top(score, score, density=d) for d in (0.05, 0.1, 0.3, 0.6)]
        assert all(a <= b for a, b in zip(masks, masks[1:], strict=False))


def test_levels_are_the_best_shares_of_a_mask() -> None:
    score, mask = scores(5), Mask.where({n: s < 1 for n, s in scores(6).items()})
    levels = nested(score, mask, (0.5, 0.25))
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
    for name, hit in eligible(weights, guard=1.5).items():
        values = weights[name].double()
        spread = (values - values.mean()).square().mean().sqrt()
        assert torch.equal(hit, values.abs() < 1.5 * spread)
    assert all(bool(hit.all()) for hit in eligible(weights).values())
    even = {"w": torch.tensor([-1.0, 1.0, -1.0, 1.0])}  # of standard deviation 1
    assert not bool(eligible(even, guard=0.9)["w"].any())
    positive = {n: torch.ones_like(w) for n, w in weights.items()}
    found = top(positive, weights, density=1.0, guard=1.0)
    assert held(found) == held(Mask.where(eligible(weights, guard=1.0)))


def test_within_a_mask_nothing_else_is_shut() -> None:
    score = {n: s.abs() for n, s in scores(8).items()}
    mask = Mask.where({n: s > 0.5 for n, s in scores(9).items()})
    found = top(score, score, density=0.1, within=mask)
    assert held(found) == brute(score, 4, held(mask))
    only = mask.restricted(["a.to_k"])
    assert held(top(score, score, density=1.0, within=only)) == held(only)
    with pytest.raises(MaskError, match="a.to_k"):
        top(score, score, density=0.1, within=Mask.empty({"a.to_k": (2, 2)}))


def test_the_order_of_a_dictionary_decides_no_tie() -> None:
    score = {n: torch.ones(s) for n, s in SHAPES.items()}
    turned = dict(reversed(score.items()))
    assert top(score, score, density=0.5) == top(turned, turned, density=0.5)
