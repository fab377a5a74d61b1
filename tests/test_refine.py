"""Refinement finds the known best mask; rounds see interactions that one shot does not."""

import itertools

import pytest
import torch

from cones.errors import SearchError
from cones.mask import ConceptMask
from cones.refine import refine, shut_in_rounds
from cones.search import score_moments
from cones.select import select
from cones.state import SearchState, run
from fakes import Pairs, Quadratic, TwoLayers, random_weights

WEIGHTS = random_weights((12, 10), (80,), seed=3)


def planted(seed=0, share=0.1):
    """Return losses that are lowest where exactly ``mask`` is shut."""
    generator = torch.Generator().manual_seed(seed)
    mask = ConceptMask.where(
        {n: torch.rand(w.shape, generator=generator) < share for n, w in WEIGHTS.items()}
    )
    return Quadratic({n: w.masked_fill(mask.hits()[n], 0) for n, w in WEIGHTS.items()}), mask


def counts(mask):
    return [len(index) for index in mask.indices.values()]


def test_refinement_finds_the_planted_mask_from_any_start():
    losses, best = planted()
    generator = torch.Generator().manual_seed(5)
    start = best.random_like(generator)
    assert len(start & best) < len(best) / 2
    found = run(refine(losses, WEIGHTS, start, steps=60, rate=0.1))
    assert found == best


def test_refinement_lowers_a_curved_loss_below_one_shot():
    losses, weights = TwoLayers(), TwoLayers().weights()
    moments = run(score_moments(losses, weights, steps=50))
    start = select(moments.total, weights, density=0.2)
    search = refine(losses, weights, start, steps=150, rate=0.05, ranking=moments.total)
    found = run(search)

    def measured(mask):
        shut = {n: w.masked_fill(mask.hits()[n], 0) for n, w in weights.items()}
        return sum(float(losses(k)(shut)) for k in range(5000, 5020))

    assert len(found) == len(start)
    assert measured(found) < measured(start)


@pytest.mark.parametrize("per", ["model", "site"])
@pytest.mark.parametrize("ranked", [True, False])
def test_the_count_is_kept(per, ranked):
    losses, _ = planted()
    ranking = random_weights((12, 10), (80,), seed=4)
    start = select(ranking, WEIGHTS, density=0.15, per=per)
    seen = []
    ranking = ranking if ranked else None
    search = refine(losses, WEIGHTS, start, steps=40, rate=0.2, ranking=ranking, per=per)
    found = run(search, lambda p: seen.append(p.loss))
    assert len(found) == len(start)
    assert found != start
    assert (counts(found) == counts(start)) == (per == "site")
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("per", ["model", "site"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_it_starts_from_the_given_mask_whatever_the_ranking(per, scale):
    seen = []

    def losses(step):
        def loss(weights):
            seen.append({n: w.detach() == 0 for n, w in weights.items()})
            return sum(w.square().sum() for w in weights.values())

        return loss

    ranking = {n: s * scale for n, s in random_weights((12, 10), (80,), seed=4).items()}
    foreign = planted()[1]
    own = select(ranking, WEIGHTS, density=0.1, per=per)
    for start in (foreign, own):
        run(refine(losses, WEIGHTS, start, steps=1, rate=0.1, ranking=ranking, per=per))
        assert ConceptMask.where(seen[-1]) == start


def test_latent_scores_do_not_depend_on_the_scale_of_the_ranking():
    losses, _ = planted()
    ranking = random_weights((12, 10), (80,), seed=4)
    start = select(ranking, WEIGHTS, density=0.1)
    found = []
    for scale in (2.0**-20, 1.0, 2.0**20):
        scaled = {n: s * scale for n, s in ranking.items()}
        search = refine(losses, WEIGHTS, start, steps=1, rate=0.1, ranking=scaled)
        found.append(next(search).state.slots["latent"]["w0"])
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    assert float(found[1].mean()) == pytest.approx(-1, abs=0.5)


def test_an_outlier_of_the_ranking_can_still_be_exchanged():
    losses, best = planted()
    ranking = random_weights((12, 10), (80,), seed=4)
    ranking["w0"][0, 0] = 200.0
    start = select(ranking, WEIGHTS, density=len(best) / 200)
    assert 0 in start.indices["w0"]
    assert 0 not in best.indices["w0"]
    found = run(refine(losses, WEIGHTS, start, steps=60, rate=0.1, ranking=ranking))
    assert found == best


def test_guard_and_within_are_respected():
    losses, best = planted(share=0.3)
    ranking = random_weights((12, 10), (80,), seed=4)
    guarded = select(ranking, WEIGHTS, density=0.1, guard=0.8)
    search = refine(losses, WEIGHTS, guarded, steps=40, rate=0.2, ranking=ranking, guard=0.8)
    found = run(search)
    assert found != guarded
    for name, w in WEIGHTS.items():
        limit = 0.8 * float(w.std(correction=0))
        assert float(w.view(-1)[found.indices[name]].abs().max()) < limit
    inside = select(ranking, WEIGHTS, density=0.05, within=best)
    found = run(refine(losses, WEIGHTS, inside, steps=40, rate=0.2, within=best))
    assert found <= best
    assert len(found) == len(inside)


def test_guard_excluding_the_start_is_refused():
    _, best = planted()
    with pytest.raises(SearchError, match="neurons of the mask are excluded"):
        refine(Pairs(torch.ones(1)), WEIGHTS, best, steps=1, rate=0.1, guard=0.01)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rate": -1.0}, "rate is -1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"per": "layer"}, "per is 'layer'"),
        (
            {"mask": ConceptMask.empty({n: tuple(w.shape) for n, w in WEIGHTS.items()})},
            "no neuron",
        ),
        ({"mask": ConceptMask.empty({"w0": (3,)})}, "'w0' is"),
        ({"ranking": {"w0": torch.ones(12, 10)}}, "'w1' is"),
    ],
)
def test_impossible_refinements_are_refused(options, match):
    losses, best = planted()
    asked = {"mask": best, "steps": 3, "rate": 0.1} | options
    with pytest.raises(SearchError, match=match):
        refine(losses, WEIGHTS, asked.pop("mask"), **asked)


@pytest.mark.parametrize("by", ["sum", "consistency"])
def test_rounds_shut_one_of_each_pair(by):
    weights = {"w": torch.ones(3, 2)}
    losses = Pairs(torch.tensor([1.0, 0.9, 0.8]))
    once = shut_in_rounds(losses, weights, density=0.5, rounds=1, steps=2, by=by)
    assert run(once)[-1].indices["w"].tolist() == [0, 1, 2]
    levels = run(shut_in_rounds(losses, weights, density=0.5, rounds=3, steps=2, by=by))
    assert [level.indices["w"].tolist() for level in levels] == [[0], [0, 2], [0, 2, 4]]


def test_one_round_is_one_selection():
    losses, weights = TwoLayers(), TwoLayers().weights()
    moments = run(score_moments(losses, weights, steps=9))
    for by, score in (("sum", moments.total), ("consistency", moments.consistency)):
        for per in ("model", "site"):
            search = shut_in_rounds(
                losses, weights, density=0.2, rounds=1, steps=9, by=by, per=per, guard=1.5
            )
            expected = select(score, weights, density=0.2, per=per, guard=1.5)
            assert run(search) == (expected,)


@pytest.mark.parametrize("per", ["model", "site"])
def test_rounds_grow_by_equal_shares(per):
    losses, best = planted(share=0.6)
    levels = run(shut_in_rounds(losses, WEIGHTS, density=0.2, rounds=4, steps=2, per=per))
    assert [len(level) for level in levels] == [10, 20, 30, 40]
    assert all(a <= b for a, b in itertools.pairwise(levels))
    assert levels[-1] <= best
    if per == "site":
        assert counts(levels[1]) == [12, 8]
    limited = run(
        shut_in_rounds(losses, WEIGHTS, density=0.2, rounds=2, steps=2, within=levels[1])
    )
    assert limited[-1] == levels[1]


@pytest.mark.parametrize("by", ["sum", "consistency"])
def test_the_second_round_measures_anew_with_the_first_in_place(by):
    losses, weights = TwoLayers(), TwoLayers().weights()

    def picked(offset, weights):
        moments = run(score_moments(lambda k: losses(k + offset), weights, steps=5))
        score = moments.total if by == "sum" else moments.consistency
        return select(score, weights, density=4 / 42)

    first = picked(0, weights)
    shut = {n: w.masked_fill(first.hits()[n], 0) for n, w in weights.items()}
    search = shut_in_rounds(losses, weights, density=8 / 42, rounds=2, steps=5, by=by)
    assert run(search) == (first, first | picked(5, shut))


def test_rounds_stop_where_nothing_asks_to_be_shut():
    losses, best = planted(share=0.1)
    levels = run(shut_in_rounds(losses, WEIGHTS, density=0.3, rounds=3, steps=2))
    assert len(levels[0]) == 20
    assert levels[1] == levels[2] == best


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"rounds": 256}, "rounds=256"),
        ({"steps": 0}, "steps=0"),
        ({"by": "magnitude"}, "by is 'magnitude'"),
        ({"density": 2.0}, "density is 2.0"),
        ({"density": -0.1}, "density is"),
    ],
)
def test_impossible_rounds_are_refused(options, match):
    asked = {"density": 0.1, "rounds": 2, "steps": 2} | options
    with pytest.raises(SearchError, match=match):
        shut_in_rounds(planted()[0], WEIGHTS, **asked)


def start_refine(state=None, within=None):
    losses, best = planted()
    start = best.random_like(torch.Generator().manual_seed(5))
    return refine(losses, WEIGHTS, start, steps=6, rate=0.1, within=within, state=state)


def start_rounds(state=None, within=None):
    losses, _ = planted(share=0.6)
    return shut_in_rounds(
        losses, WEIGHTS, density=0.2, rounds=3, steps=2, within=within, state=state
    )


@pytest.mark.parametrize("start", [start_refine, start_rounds])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_refinement_ends_in_the_same_bits(start, stop, tmp_path):
    path = tmp_path / "state.safetensors"
    whole = start()
    final = [p.state for p in iter(whole)][-1]
    for progress in itertools.islice(start(), stop):
        progress.state.save(path)
    state = SearchState.load(path)
    assert run(start(state)) == run(start())
    for slot, named in final.slots.items():
        assert all(state.slots[slot][n].equal(t) for n, t in named.items())


def test_a_state_of_another_refinement_is_refused():
    state = next(start_rounds()).state
    everything = ConceptMask.where({n: torch.ones_like(w) > 0 for n, w in WEIGHTS.items()})
    with pytest.raises(SearchError, match="within=None, expected '"):
        start_rounds(state, within=everything)
    with pytest.raises(SearchError, match="engine='rounds', expected 'refine'"):
        start_refine(state)


def test_a_refined_mask_may_be_taken_at_intervals():
    losses, best = planted()
    start = best.random_like(torch.Generator().manual_seed(5))
    whole = run(refine(losses, WEIGHTS, start, steps=20, rate=0.1))
    search = refine(losses, WEIGHTS, start, steps=10, rate=0.1)
    state = [progress.state for progress in search][-1]
    assert run(refine(losses, WEIGHTS, start, steps=20, rate=0.1, state=state)) == whole


def test_other_densities_are_measured_in_turn():
    losses, best = planted()
    shut = []

    def recorded(step):
        def loss(gamma):
            shut.append(sum(int((g == 0).sum()) for g in gamma.values()))
            return losses(step)(gamma)

        return loss

    start = best.random_like(torch.Generator().manual_seed(5))
    found = run(refine(recorded, WEIGHTS, start, steps=5, rate=0.1, densities=(0.05, 0.5)))
    assert shut == [len(start), 10, len(start), 100, len(start)]
    assert len(found) == len(start)
