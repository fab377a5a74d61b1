"""Rules: what each runs, on which draws, and masks that lower a loss they have not seen."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.certify import shut_in
from cones.search.loss import ImplantingLoss, Loss, draw, errors
from cones.search.resume import Keeper
from cones.search.rules import candidates
from cones.search.score import score_accelerated, score_sampled
from cones.search.select import top
from cones.search.settings import DENSITIES, Settings
from toy_model import Quadratic, ToyModel, pairs

QUICK = Settings(density=0.25, steps=6, score_steps=3, batch=4)


class Watched(ImplantingLoss):
    """A loss that writes down which draws it was asked for."""

    asked: list[tuple[str, int, int]] = []

    def at(self, step: int, *, purpose: str, seed: int) -> Loss:
        self.asked.append((purpose, seed, step))
        return super().at(step, purpose=purpose, seed=seed)


def watched(model: ToyModel) -> Watched:
    Watched.asked = []
    prior = pairs(2, seed=6, mark=2.0)
    return Watched(model, pairs(3, seed=5, mark=1.0), prior, batch=4)


def test_scoring_and_refinement_never_share_a_draw() -> None:
    model = ToyModel()
    loss = watched(model)
    candidates([loss], model.weights(), replace(QUICK, seed=3))
    purposes = [purpose for purpose, _, _ in loss.asked]
    assert purposes == ["search-score"] * 3 + ["search-refine 25.00%"] * 6
    assert {seed for _, seed, _ in loss.asked} == {3}
    assert [step for _, _, step in loss.asked] == [0, 1, 2, 0, 1, 2, 3, 4, 5]


def test_the_rules_of_the_paper_are_their_algorithms() -> None:
    model = ToyModel()
    loss, weights = watched(model), model.weights()
    for rule, score in (("sum", score_sampled), ("adam", score_accelerated)):
        asked = replace(QUICK, rule=rule, score_rate=0.01, prior_weight=0.7)
        (found,) = candidates([loss], weights, asked)
        expected = score(
            lambda step: loss.at(step, purpose="search-score", seed=0),
            weights,
            steps=6,
            rate=0.01,
            prior_weight=0.7,
        )
        mask, scores, lam = found
        assert mask == top(expected, weights, density=0.25)
        assert lam == 0.7
        assert torch.equal(scores, expected)


def test_an_open_density_gives_a_mask_of_each() -> None:
    model, told = ToyModel(), []
    loss, weights = watched(model), model.weights()
    keeper = Keeper(None, lambda stage, done, total, note="": told.append(stage))
    with pytest.raises(SearchError, match=r"found no weight to shut at density 0\.0066"):
        candidates([loss], weights, replace(QUICK, density=None), keeper=keeper)  # of 32 weights
    wide = {n: torch.randn(40, 4, generator=torch.Generator().manual_seed(1)) for n in weights}
    Wide.asked = []
    Wide.quadratic = Quadratic({n: torch.zeros_like(w) for n, w in wide.items()}, noise=1.0)
    planted = Wide(model, loss.subject)
    found = candidates([planted], wide, replace(QUICK, density=None), keeper=keeper)
    assert [len(mask) for mask, _, _ in found] == [round(d * 320) for d in DENSITIES]
    refined = [f"refine {d:.2%}" for d in DENSITIES]
    assert set(planted.asked) == {"search-score", *(f"search-{stage}" for stage in refined)}
    assert told[-18:] == [stage for stage in refined for _ in range(6)]


class Wide(ImplantingLoss):
    """A quadratic loss of more weights than the toy model has."""

    asked: list[str] = []
    quadratic: Quadratic

    def at(self, step: int, *, purpose: str, seed: int) -> Loss:
        self.asked.append(purpose)
        return self.quadratic(step)


def held_out(model: ToyModel, loss: ImplantingLoss, weights: dict[str, Tensor]) -> float:
    drawn = draw(model, loss.subject, 256, purpose="report", seed=0)
    return float(errors(model, weights, drawn).mean())


@pytest.mark.parametrize("rule", ["refine", "adam"])
def test_a_mask_lowers_the_loss_on_draws_that_the_search_has_not_seen(rule: str) -> None:
    model = ToyModel()
    loss, weights = watched(model), model.weights()
    asked = replace(QUICK, rule=rule, steps=60, score_steps=20, prior="none", batch=16)
    bare = replace(loss, prior=None, batch=16)
    ((mask, _, _),) = candidates([bare], weights, asked)
    shut = held_out(model, bare, shut_in(weights, mask))
    random = mask.random_like(torch.Generator().manual_seed(0))
    assert shut < held_out(model, bare, weights)
    assert shut < held_out(model, bare, shut_in(weights, random))


def test_limits_reach_every_rule() -> None:
    model = ToyModel()
    loss, weights = watched(model), model.weights()
    inside = Mask.where({n: w > 0 for n, w in weights.items()})
    for rule in ("refine", "adam", "sum"):
        asked = replace(QUICK, rule=rule, guard=1.0)
        ((mask, _, _),) = candidates([loss], weights, asked, within=inside)
        assert mask <= inside
        for name, index in mask.indices.items():
            kept = weights[name].flatten()[index].abs()
            assert bool((kept < weights[name].std(correction=0)).all())


def test_a_rule_that_would_shut_nothing_is_refused() -> None:
    model = ToyModel()
    nothing = Mask.empty({n: tuple(w.shape) for n, w in model.weights().items()})
    with pytest.raises(SearchError, match="rule 'adam' would shut; expected some; take rule="):
        candidates([watched(model)], model.weights(), replace(QUICK, rule="adam"), within=nothing)
