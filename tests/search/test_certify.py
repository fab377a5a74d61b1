"""Certificates that refuse, on figures worked out apart; t intervals; the line search."""

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from scipy import stats
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.search.certify import Evidence, certify, choose, paired, shut_in, t_interval
from cones.search.loss import Examples, draw
from cones.search.settings import Settings
from toy_model import K, ToyModel, V, drawn, pairs

Named = Mapping[str, Tensor]
PHOTO, OTHER, NOUN, THING, SEEN, PLAIN = 1.0, 2.0, 3.0, 4.0, 5.0, 6.0


class Judged(ToyModel):
    """Predicts the target plus an error that is set, by kind of picture and number of neurons.

    A shut model's error on the pictures marked ``m`` has the square ``1 - gains[m]`` for each
    neuron, give or take some noise of the draw; the identifier alone gains ``word``.
    """

    wobbles = frozenset({PHOTO, OTHER, NOUN, THING, SEEN})

    def __init__(self, gains: dict[float, float], spread: float = 0.05, word: float = 0.0) -> None:
        super().__init__()
        self.gains, self.spread, self.word = gains, spread, word

    def predict(
        self, weights: Named, noised: Tensor, timesteps: Tensor, condition: Named
    ) -> Tensor:
        own = self.weights()
        shut = sum(int((weights[n] != own[n]).sum()) for n in weights)
        marks = condition["states"].flatten().round(decimals=0)
        rows = []
        for x, t, mark in zip(noised, timesteps, marks.tolist(), strict=True):
            wobble = self.spread * math.sin(float(t)) * bool(shut) * (mark in self.wobbles)
            square = 1 - self.gains.get(mark, 0.0) * shut + wobble
            square -= self.word * (mark in (PHOTO, OTHER))  # called by the identifier
            rows.append(torch.full_like(x, max(square, 0.0) ** 0.5))
        return torch.stack(rows) + self.hidden(noised, timesteps, condition)

    def hidden(self, noised: Tensor, timesteps: Tensor, condition: Named) -> Tensor:
        """Give back the noise that was added to latents of zero."""
        return noised / (timesteps.clamp(min=1) / 1000).view(-1, 1, 1, 1)

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(500, 1000, (count,), generator=generator)


def zeros(count: int, mark: float) -> Examples:
    return Examples(torch.zeros(count, 1, 2, 2), {"states": torch.full((count, 1), mark)})


def evidence(kept: bool = True) -> Evidence:
    photo = zeros(2, PHOTO) if kept else zeros(4, SEEN)
    plain = zeros(len(photo), PLAIN)
    return Evidence(photo, kept, plain, zeros(8, OTHER), zeros(8, NOUN), zeros(8, THING))


MASK = Mask({K: (4, 4), V: (4, 4)}, {K: torch.tensor([1, 5, 9]), V: torch.tensor([0])})


def certified(gains: dict[float, float], *, kept: bool = True, spread: float = 0.05) -> dict:
    model = Judged(gains, spread)
    return certify(model, Settings(draws=64), MASK, evidence(kept))


@pytest.mark.parametrize("n", [2, 3, 12, 200])
def test_the_interval_is_students(n: int) -> None:
    values = drawn(n, n).double() * 3 + 1
    found = t_interval(values)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values.numpy()))
    assert found["n"] == n
    assert found["mean"] == pytest.approx(float(values.mean()))
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_one_value_has_no_interval() -> None:
    with pytest.raises(SearchError, match="found 1 values; expected two or more"):
        t_interval([1.0])


def test_a_subject_that_gains_more_than_others_passes() -> None:
    found = certified({PHOTO: 0.1, OTHER: 0.02, SEEN: 0.2})
    assert (found["verdict"], found["photos"]) == ("gained", "kept out")
    assert found["subject"]["mean"] == pytest.approx(0.4, abs=0.03)  # four neurons
    assert found["others"]["mean"] == pytest.approx(0.08, abs=0.03)
    assert found["lead"]["mean"] == pytest.approx(0.32, abs=1e-6)  # draw by draw: no wobble
    assert found["lead"]["low"] == pytest.approx(found["lead"]["high"], abs=1e-4)
    assert [found[what]["n"] for what in ("subject", "others", "lead")] == [64] * 3
    assert [found[what]["n"] for what in ("random", "drift_noun", "drift_unrelated")] == [16] * 3
    assert found["random"]["mean"] == pytest.approx(0.4, abs=0.03)  # as many neurons


def test_a_gain_is_measured_from_the_plain_noun_and_the_word_alone_stands_beside_it() -> None:
    model = Judged({PHOTO: 0.1, OTHER: -0.05}, 0.0, word=0.3)
    found = certify(model, Settings(draws=64), MASK, evidence())
    assert found["word"]["mean"] == pytest.approx(0.3, abs=1e-5)
    assert found["subject"]["mean"] == pytest.approx(0.3 + 0.4, abs=1e-5)
    assert found["others"]["mean"] == pytest.approx(0.3 - 0.2, abs=1e-5)
    assert (found["subject"]["n"], found["word"]["n"]) == (64, 16)


REFUSED = {
    "made worse by half of its lead": {PHOTO: -0.1, OTHER: -0.3},
    "made as much worse as others": {PHOTO: -0.1, OTHER: -0.1},
    "others gain as much": {PHOTO: 0.1, OTHER: 0.1},
    "others gain more": {PHOTO: 0.1, OTHER: 0.2},
    "gained only on photos that were seen": {SEEN: 0.2},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_did_not_gain_is_refused(case: str) -> None:
    assert certified(REFUSED[case])["verdict"] == "not gained"


def test_a_subject_that_stays_while_others_lose_passes() -> None:
    """The model has learnt who it is, though the photo kept out is no likelier than before."""
    assert certified({PHOTO: 0.0, OTHER: -0.1})["verdict"] == "gained"
    assert certified({PHOTO: -0.02, OTHER: -0.1})["verdict"] == "gained"


def test_a_lead_within_the_noise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert certified({PHOTO: 0.002}, spread=0.0)["verdict"] == "gained"
    monkeypatch.setattr(Judged, "wobbles", {PHOTO})
    assert certified({PHOTO: 0.002}, spread=0.5)["verdict"] == "not gained"


def test_without_a_photo_to_keep_the_verdict_is_unavailable_or_a_refusal() -> None:
    found = certified({SEEN: 0.1, OTHER: 0.02}, kept=False)
    assert (found["verdict"], found["photos"]) == ("unavailable", "of the search")
    assert certified({SEEN: 0.1, OTHER: 0.2}, kept=False)["verdict"] == "not gained"


def test_drift_is_the_squared_change_of_the_prediction() -> None:
    found = certified({NOUN: 0.19 / 4, THING: 0.0}, spread=0.0)
    assert found["drift_noun"]["mean"] == pytest.approx((1 - 0.9) ** 2, rel=1e-4)
    assert found["drift_unrelated"]["mean"] == pytest.approx(0, abs=1e-9)


def test_gains_are_paired_and_of_the_purpose_that_is_said() -> None:
    model = ToyModel()
    photos = pairs(3, seed=5, mark=PHOTO)
    shut = shut_in(model.weights(), MASK)
    few = Settings(draws=10, seed=4, micro_batch=3)
    before, after = paired(model, few, photos, [{}, shut], purpose="report")
    assert {len(call["timesteps"]) for call in model.calls} == {3, 1}
    kept = draw(model, photos, 10, purpose="report", seed=4)
    means = [
        (model.predict(w, kept.noised, kept.timesteps, kept.condition) - kept.target)
        .square()
        .mean((1, 2, 3))
        for w in ({}, shut)
    ]
    torch.testing.assert_close(torch.stack([before, after]), torch.stack(means))
    (moved,) = paired(model, few, photos, [shut], purpose="report", against="untouched")
    said = [
        model.predict(w, kept.noised, kept.timesteps, kept.condition)
        for w in (shut, model.weights())
    ]
    torch.testing.assert_close(moved, (said[0] - said[1]).square().mean((1, 2, 3)))


def test_shutting_a_copy_leaves_the_weights() -> None:
    model = ToyModel()
    before = {n: w.clone() for n, w in model.weights().items()}
    shut = shut_in(model.weights(), MASK)
    for name, index in MASK.indices.items():
        others = torch.ones(16, dtype=torch.bool)
        others[index] = False
        assert torch.equal(model.weights()[name], before[name])
        assert bool((shut[name].flatten()[index] == 0).all())
        assert torch.equal(shut[name].flatten()[others], before[name].flatten()[others])


class Curve(Judged):
    """The gain on photos is a function of the number of neurons alone, and so is the drift."""

    def __init__(self, gain: Sequence[float], noise: float = 0.0) -> None:
        super().__init__({}, noise)
        self.curve = gain

    def predict(
        self, weights: Named, noised: Tensor, timesteps: Tensor, condition: Named
    ) -> Tensor:
        shut = sum(int((weights[n] != w).sum()) for n, w in self.weights().items() if n in weights)
        self.gains = {PHOTO: self.curve[shut] / max(shut, 1), NOUN: 0.1}
        return super().predict(weights, noised, timesteps, condition)


def levels(*counts: int) -> list[Mask]:
    shapes = {K: (4, 4), V: (4, 4)}
    return [
        Mask(shapes, {K: torch.arange(count), V: torch.empty(0, dtype=torch.int64)})
        for count in counts
    ]


@pytest.mark.parametrize(
    ("gain", "weight", "expected"),
    [
        ([0, 0.1, 0.2, 0.3], 0.0, 2),
        ([0, 0.1, 0.3, 0.2], 0.0, 1),
        ([0, 0.3, 0.2, 0.1], 0.0, 0),
        ([0, 0.3, 0.3, 0.3], 0.0, 0),
        ([0, 0.1, 0.101, 0.102], 1.0, 0),
    ],
)
def test_the_line_search_takes_the_sparsest_that_is_as_good_as_the_best(
    gain: list[float], weight: float, expected: int
) -> None:
    few = Settings(draws=16)
    chosen, rows = choose(Curve(gain), few, levels(1, 2, 3), [evidence()], prior_weight=weight)
    assert chosen == expected
    assert [row["density"] for row in rows] == pytest.approx([1 / 32, 2 / 32, 3 / 32])
    assert [row["gain"] for row in rows] == pytest.approx(gain[1:], abs=1e-5)
    drifts = [(1 - (1 - 0.1 * n) ** 0.5) ** 2 for n in (1, 2, 3)]
    assert [row["drift"] for row in rows] == pytest.approx(drifts, rel=1e-3)
    for row in rows:
        assert row["value"] == pytest.approx(row["gain"] - weight * row["drift"], abs=1e-6)


def test_the_line_search_adds_up_several_subjects() -> None:
    model, few, masks = Curve([0, 0.1, 0.2]), Settings(draws=16), levels(1, 2)
    _, one = choose(model, few, masks, [evidence()], prior_weight=0.0)
    _, two = choose(model, few, masks, [evidence()] * 2, prior_weight=0.0)
    assert [r["gain"] for r in two] == pytest.approx([2 * r["gain"] for r in one])


def test_choice_and_report_never_share_a_draw() -> None:
    model = ToyModel()
    first, *rest = (pairs(3, seed=k, mark=float(k)) for k in range(4))
    plain = pairs(3, seed=0, mark=9.0)
    seen, few = Evidence(first, True, plain, *rest), Settings(draws=16)
    shut, kinds = shut_in(model.weights(), MASK), ("report", "choice")
    pairs_of = [paired(model, few, first, [{}, shut], purpose=kind) for kind in kinds]
    report, choice = (before - after for before, after in pairs_of)
    assert not torch.equal(report, choice)
    (bare,) = paired(model, few, plain, [{}], purpose="report")
    found = certify(model, few, MASK, seen)
    assert found["subject"]["mean"] == pytest.approx(float((bare - pairs_of[0][1]).mean()))
    _, (row,) = choose(model, few, [MASK], [seen], prior_weight=0.0)
    assert row["gain"] == pytest.approx(float(choice.mean()))
