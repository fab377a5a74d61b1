"""Selection is exact, nested, positive, and the same for every order of names."""

import pytest
import torch

from cones.errors import SearchError
from cones.mask import ConceptMask
from cones.select import implied_tau, nested, select
from fakes import random_weights

WEIGHTS = random_weights((20, 30), (50, 8), (100,))
SCORE = random_weights((20, 30), (50, 8), (100,), seed=1)
TOTAL = 1100


def chosen(mask, score=SCORE):
    return torch.cat([score[n].view(-1)[mask.indices[n]] for n in score])


def test_density_keeps_the_highest_exactly():
    mask = select(SCORE, WEIGHTS, density=0.05)
    assert len(mask) == 55
    ranked = torch.cat([s.view(-1) for s in SCORE.values()]).sort(descending=True).values
    assert chosen(mask).sort(descending=True).values.equal(ranked[:55])
    per_site = {len(index) for index in mask.indices.values()}
    assert per_site != {30, 20, 5}


def test_density_per_site_keeps_the_highest_of_each():
    mask = select(SCORE, WEIGHTS, density=0.05, per="site")
    assert [len(index) for index in mask.indices.values()] == [30, 20, 5]
    for name, s in SCORE.items():
        best = s.view(-1).topk(len(mask.indices[name])).indices.sort().values
        assert mask.indices[name].equal(best)


def test_tau_is_exceeded_not_reached():
    score = {"a": torch.tensor([0.5, 1.0, 1.5, -2.0])}
    mask = select(score, score, tau=1.0)
    assert mask.indices["a"].tolist() == [2]


def test_only_positive_scores_are_ever_kept():
    mask = select(SCORE, WEIGHTS, density=1.0)
    assert mask == ConceptMask.where({n: s > 0 for n, s in SCORE.items()})


def test_ties_go_to_the_first_name_and_position():
    score = {"b": torch.tensor([1.0, 2.0, 1.0]), "a": torch.tensor([1.0, 0.0, 1.0])}
    assert select(score, score, density=0.5) == select(
        dict(reversed(score.items())), dict(reversed(score.items())), density=0.5
    )
    mask = select(score, score, density=0.5)
    assert {n: i.tolist() for n, i in mask.indices.items()} == {"b": [1], "a": [0, 2]}
    mask = select(score, score, density=2 / 6)
    assert {n: i.tolist() for n, i in mask.indices.items()} == {"b": [1], "a": [0]}


def test_constant_scores_still_give_the_exact_count():
    score = {n: torch.ones_like(s) for n, s in SCORE.items()}
    for count in (1, 2, 599, 600, 601, 1099, 1100):
        assert len(select(score, WEIGHTS, density=count / TOTAL)) == count


def test_guard_leaves_large_weights_alone():
    mask = select(SCORE, WEIGHTS, density=0.2, guard=0.7)
    assert len(mask) == 220
    for name, w in WEIGHTS.items():
        limit = 0.7 * float(((w - w.mean()) ** 2).mean().sqrt())
        assert float(w.view(-1)[mask.indices[name]].abs().max()) < limit
    free = select(SCORE, WEIGHTS, tau=1.0)
    assert select(SCORE, WEIGHTS, tau=1.0, guard=0.7) <= free
    assert select(SCORE, WEIGHTS, tau=1.0, guard=100.0) == free


def test_guard_is_measured_in_each_parameter():
    weights = {"small": torch.tensor([0.01, -0.01, 0.03]), "large": torch.tensor([1.0, -1, 3])}
    ones = {n: torch.ones(3) for n in weights}
    mask = select(ones, weights, density=1.0, guard=1.0)
    assert {n: i.tolist() for n, i in mask.indices.items()} == {"small": [0, 1], "large": [0, 1]}


def test_guard_counts_in_population_standard_deviations():
    weights = {"w": torch.tensor([1.0, 3.0])}  # mean 2, standard deviation 1
    ones = {"w": torch.ones(2)}
    assert not select(ones, weights, density=1.0, guard=1.0)
    assert select(ones, weights, density=1.0, guard=1.01).indices["w"].tolist() == [0]


def test_within_searches_only_that_mask():
    outer = select(SCORE, WEIGHTS, density=0.1)
    other = random_weights((20, 30), (50, 8), (100,), seed=2)
    inner = select(other, WEIGHTS, density=0.02, within=outer)
    assert len(inner) == 22
    assert inner <= outer
    assert select(other, WEIGHTS, tau=0.5, within=outer) == (
        select(other, WEIGHTS, tau=0.5) & outer
    )


@pytest.mark.parametrize("options", [{}, {"per": "site"}, {"guard": 1.0}])
def test_levels_are_nested_and_equal_single_selections(options):
    rough = {n: (s * 4).round() for n, s in SCORE.items()}
    densities = (0.001, 0.0132, 0.07, 0.3)
    levels = nested(rough, WEIGHTS, densities, **options)
    assert all(a <= b for a, b in zip(levels, levels[1:], strict=False))
    single = tuple(select(rough, WEIGHTS, density=d, **options) for d in densities)
    assert levels == single


def test_implied_tau_selects_the_same_mask():
    mask = select(SCORE, WEIGHTS, density=0.05)
    assert select(SCORE, WEIGHTS, tau=implied_tau(SCORE, mask)) == mask
    assert implied_tau(SCORE, ConceptMask.empty(mask.shapes)) == float("inf")


OTHER = ConceptMask.empty({"w0": (20, 30)})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "expected exactly one"),
        ({"density": 0.1, "tau": 1.0}, "expected exactly one"),
        ({"density": 0.0}, "density is 0.0, expected a share"),
        ({"density": 1.5}, "density is 1.5"),
        ({"density": float("nan")}, "density is nan"),
        ({"tau": 0.0}, "tau is 0.0, expected more than 0"),
        ({"density": 0.1, "per": "layer"}, "per is 'layer'"),
        ({"density": 0.1, "guard": 0.0}, "guard is 0.0"),
        ({"density": 0.1, "within": OTHER}, "'w1' is .*absent"),
    ],
)
def test_impossible_requests_are_refused(options, match):
    with pytest.raises(SearchError, match=match):
        select(SCORE, WEIGHTS, **options)


def test_foreign_or_broken_scores_are_refused():
    with pytest.raises(SearchError, match="'w0' is .* in the other"):
        select(SCORE | {"w0": torch.ones(2)}, WEIGHTS, density=0.1)
    with pytest.raises(SearchError, match="score of 'w2' holds NaN"):
        select(SCORE | {"w2": torch.full((100,), float("nan"))}, WEIGHTS, density=0.1)


@pytest.mark.parametrize("densities", [(), (0.1, 0.1), (0.2, 0.1)])
def test_levels_must_increase(densities):
    with pytest.raises(SearchError, match="strictly increasing"):
        nested(SCORE, WEIGHTS, densities)
