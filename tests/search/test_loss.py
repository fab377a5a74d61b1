"""Eqs. 1-4 in plain floats; draws that depend on purpose, seed and step alone; exact gradients."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cones.errors import SearchError, SubjectError
from cones.search.loss import (
    Draw,
    Examples,
    ImplantingLoss,
    Loss,
    Part,
    differentiate,
    draw,
    errors,
    examples,
    together,
)
from toy_model import K, Quadratic, ToyModel, TwoLayers, V, pairs

SUBJECT, PRIOR = 1.0, 2.0


def implanting(model: ToyModel | None = None, **changes: object) -> ImplantingLoss:
    """Make a loss of three subject pictures and two prior pictures."""
    settings = {"prior": pairs(2, seed=6, mark=PRIOR), "batch": 4, **changes}
    return ImplantingLoss(model or ToyModel(), pairs(3, seed=5, mark=SUBJECT), **settings)


def by_hand(a: list, b: list, x: list[float], c: float) -> list[float]:
    """Predict for one sample in plain floats."""
    hidden = [math.tanh(sum(w * v for w, v in zip(row, x, strict=True))) for row in a]
    return [sum(w * h for w, h in zip(row, hidden, strict=True)) + c for row in b]


def error_by_hand(weights: dict[str, Tensor], drawn: Draw, k: int, target: list[float]) -> float:
    """Work out Eq. 1 for one sample in plain floats."""
    x, c = drawn.noised[k].flatten().tolist(), float(drawn.condition["states"][k])
    said = by_hand(weights[K].tolist(), weights[V].tolist(), x, c)
    cells = drawn.weight[k].expand(1, 2, 2).flatten().tolist()
    squares = [w * (p - t) ** 2 for w, p, t in zip(cells, said, target, strict=True)]
    return sum(squares) / len(squares)


def shut(model: ToyModel) -> dict[str, Tensor]:
    """Give weights that differ from the model's own."""
    return {name: w * (w.abs() > 0.5) for name, w in model.weights().items()}


def total(loss: Loss, weights: dict[str, Tensor], prior_weight: float) -> float:
    found = [part() for part in loss(weights)]
    return sum(float(a) + prior_weight * float(b) for a, b in found)


@pytest.mark.parametrize("weighting", ["uniform", "min-snr"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_error_of_a_sample_is_equation_1(weighting: str, masked: bool) -> None:
    model = ToyModel()
    area = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).expand(3, 1, 2, 2) if masked else None
    photos = pairs(3, seed=5, mark=SUBJECT, masks=area)
    drawn = draw(model, photos, 4, purpose="p", seed=0, weighting=weighting)
    found = errors(model, shut(model), drawn)
    for k in range(4):
        time = float(drawn.timesteps[k])
        noise = (drawn.noised[k] - photos.latents[_shown(drawn, k)]) / (time / 1000)
        omega = 1.0 if weighting == "uniform" else time / 500
        cells = [1.0] * 4 if not masked else [v / 0.375 for v in (1.0, 0.0, 0.5, 0.0)]
        assert drawn.weight[k].flatten().tolist() == pytest.approx([omega * c for c in cells])
        expected = error_by_hand(shut(model), drawn, k, noise.flatten().tolist())
        assert float(found[k]) == pytest.approx(expected, rel=1e-3)


def _shown(drawn: Draw, k: int) -> int:
    """Tell from its condition which picture a sample shows."""
    return round((float(drawn.condition["states"][k]) - SUBJECT) * 100)


@pytest.mark.parametrize("against", ["data", "untouched"])
@pytest.mark.parametrize("prior_weight", [0.0, 0.1, 2.5])
def test_the_loss_is_equations_2_to_4(against: str, prior_weight: float) -> None:
    model = ToyModel()
    loss = implanting(model, against=against)
    weights = shut(model)
    key = {"seed": 1, "step": 3}
    photos = draw(model, loss.subject, 4, purpose="p", **key)
    others = draw(model, loss.prior, 4, purpose="p prior", **key)
    own = model.weights()
    expected = 0.0
    for k in range(4):
        target = photos.target[k].flatten().tolist()
        expected += error_by_hand(weights, photos, k, target) / 4
        target = others.target[k].flatten().tolist()
        if against == "untouched":
            x, c = others.noised[k].flatten().tolist(), float(others.condition["states"][k])
            target = by_hand(own[K].tolist(), own[V].tolist(), x, c)
        expected += prior_weight * error_by_hand(weights, others, k, target) / 4
    found = differentiate(
        loss.at(3, purpose="p", seed=1), weights, prior_weight=prior_weight, step=3
    )
    assert found.subject + prior_weight * found.prior == pytest.approx(expected, rel=1e-4)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    model = ToyModel(dtype=torch.float64)
    loss = implanting(model).at(2, purpose="p", seed=0)
    weights = shut(model)
    found = differentiate(loss, weights, prior_weight=0.7, step=2)
    for name in (K, V):
        for place in ((0, 1), (3, 2)):
            moved = {n: w.clone() for n, w in weights.items()}
            moved[name][place] += 1e-4
            high = total(loss, moved, 0.7)
            moved[name][place] -= 2e-4
            slope = (high - total(loss, moved, 0.7)) / 2e-4
            assert float(found.of[name][place]) == pytest.approx(slope, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, None])
def test_micro_batches_change_passes_and_nothing_else(size: int | None) -> None:
    model = ToyModel(dtype=torch.float64)
    whole = differentiate(
        implanting(model).at(0, purpose="p", seed=0), shut(model), prior_weight=0.3, step=0
    )
    model.calls.clear()
    loss = implanting(model, micro_batch=size).at(0, purpose="p", seed=0)
    part = differentiate(loss, shut(model), prior_weight=0.3, step=0)
    assert part.subject == pytest.approx(whole.subject, rel=1e-6)
    assert part.prior == pytest.approx(whole.prior, rel=1e-6)
    for name, gradient in whole.of.items():
        torch.testing.assert_close(part.of[name], gradient)
    sizes = [len(call["timesteps"]) for call in model.calls if call["grad"]]
    assert sum(sizes) == 8
    assert max(sizes) == min(size or 4, 4)


def test_agreement_asks_the_untouched_network_once_a_step_and_without_gradient() -> None:
    model = ToyModel()
    loss = implanting(model).at(0, purpose="p", seed=0)
    differentiate(loss, shut(model), prior_weight=1.0, step=0)
    asked = [(len(c["timesteps"]), c["grad"]) for c in model.calls]
    assert asked == [(4, True), (4, False), (4, True)]
    assert torch.equal(model.calls[1]["noised"], model.calls[2]["noised"])


def test_the_prior_may_have_fewer_samples() -> None:
    model = ToyModel()
    few = implanting(model, prior_batch=2).at(0, purpose="p", seed=0)
    weights = shut(model)
    found = differentiate(few, weights, prior_weight=1.0, step=0)
    drawn = draw(model, pairs(2, seed=6, mark=PRIOR), 2, purpose="p prior", seed=0)
    said = [
        model.predict(w, drawn.noised, drawn.timesteps, drawn.condition) for w in ({}, weights)
    ]
    assert found.prior == pytest.approx(float((said[0] - said[1]).square().mean()))
    whole = implanting(model).at(0, purpose="p", seed=0)
    same = differentiate(whole, weights, prior_weight=1.0, step=0)
    assert found.subject == pytest.approx(same.subject)


def test_an_untouched_model_agrees_with_itself() -> None:
    model = ToyModel()
    loss = implanting(model).at(0, purpose="p", seed=0)
    found = differentiate(loss, model.weights(), prior_weight=1.0, step=0)
    assert found.prior == pytest.approx(0, abs=1e-12)
    assert found.subject > 0.1
    bare = implanting(model, prior=None).at(0, purpose="p", seed=0)
    alone = differentiate(bare, model.weights(), prior_weight=1.0, step=0)
    assert (alone.prior, alone.subject) == (0, pytest.approx(found.subject))


def test_draws_depend_on_purpose_seed_and_step_alone() -> None:
    model, photos = ToyModel(), pairs(3, seed=5, mark=SUBJECT)

    def noise(purpose: str = "p", seed: int = 1, step: int = 7, of: Examples = photos) -> Tensor:
        torch.rand(3)  # the global generator plays no part
        return draw(model, of, 4, purpose=purpose, seed=seed, step=step).target

    first = noise()
    assert torch.equal(first, noise())
    assert torch.equal(first, noise(of=pairs(2, seed=9, mark=PRIOR)))
    for other in (noise(purpose="q"), noise(seed=2), noise(step=8), noise(seed=7, step=1)):
        assert not torch.equal(first, other)


def test_pictures_come_evenly() -> None:
    model, photos = ToyModel(), pairs(3, seed=5, mark=SUBJECT)
    for step in range(5):
        drawn = draw(model, photos, 7, purpose="p", seed=0, step=step)
        counts = torch.tensor([_shown(drawn, k) for k in range(7)]).bincount(minlength=3)
        assert sorted(counts.tolist()) == [2, 2, 3]
        for k in range(7):
            time, latents = drawn.timesteps[k] / 1000, photos.latents[_shown(drawn, k)]
            torch.testing.assert_close(drawn.noised[k], latents + time * drawn.target[k])


def test_several_subjects_add_up_on_draws_of_their_own() -> None:
    model = ToyModel()
    one, two = implanting(model), implanting(model, against="data")
    joint = together([one, two], purpose="p", seed=0)(4)
    apart = [each.at(4, purpose=f"p {k}", seed=0) for k, each in enumerate((one, two))]
    weights = shut(model)
    expected = sum(total(loss, weights, 0.3) for loss in apart)
    assert total(joint, weights, 0.3) == pytest.approx(expected)
    alone = together([one], purpose="p", seed=0)(4)  # draws as the loss itself
    assert total(alone, weights, 0.3) == total(one.at(4, purpose="p", seed=0), weights, 0.3)
    assert not torch.equal(
        draw(model, one.subject, 4, purpose="p 0", seed=0).target,
        draw(model, one.subject, 4, purpose="p 1", seed=0).target,
    )


def test_half_precision_sums_in_float32() -> None:
    model = ToyModel(dtype=torch.bfloat16)
    loss = implanting(model, micro_batch=3).at(0, purpose="p", seed=0)
    found = differentiate(loss, model.weights(), prior_weight=1.0, step=0)
    assert {g.dtype for g in found.of.values()} == {torch.float32}


def test_encoding_mirrors_photos_and_masks_together() -> None:
    pixels = torch.zeros(1, 3, 8, 8)
    pixels[..., :4] = 1
    found = examples(ToyModel(), pixels, "ab", masks=pixels[:, :1], flip=True)
    assert found.latents[0, 0].tolist() == [[1, 0], [1, 0]]
    assert found.latents[1, 0].tolist() == [[0, 1], [0, 1]]
    assert torch.equal(found.masks, found.latents)
    assert found.condition["states"].flatten().tolist() == pytest.approx([0.2, 0.2])
    plain = examples(ToyModel(), pixels, ["abc"])
    assert len(plain) == 1
    assert plain.masks is None


def test_a_picture_without_a_prompt_is_refused() -> None:
    with pytest.raises(
        SubjectError, match="found 1 prompts for 2 pictures; expected one for each"
    ):
        examples(ToyModel(), torch.zeros(2, 3, 8, 8), ["a cat"])


def test_a_loss_that_ignores_a_weight_is_refused() -> None:
    def loss(weights: dict[str, Tensor]) -> Iterator[Part]:
        yield lambda: (weights[K].sum(), torch.zeros(()))

    with pytest.raises(SearchError, match="step 4 does not depend on 'net.b"):
        differentiate(loss, ToyModel().weights(), prior_weight=1.0, step=4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    losses = TwoLayers()
    weights = losses.weights()
    weights[V][0, 0] = value
    with pytest.raises(SearchError, match="at step 2 is not finite; expected finite numbers"):
        differentiate(losses(2), weights, prior_weight=1.0, step=2)
    flat = Quadratic({"w": torch.tensor([value])}, curvature=1.0)
    with pytest.raises(SearchError, match="at step 0 is not finite"):
        differentiate(flat(0), {"w": torch.ones(1)}, prior_weight=1.0, step=0)
