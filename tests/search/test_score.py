"""Algorithm 1 against plain floats, Algorithm A2 against torch.optim, both against each other."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from cones.search.loss import differentiate
from cones.search.score import score_accelerated, score_sampled
from toy_model import K, Quadratic, TwoLayers, V, drawn

STEPS = 7


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def by_hand(theta: float, targets: list[float], rate: float) -> float:
    """Work out Algorithm 1 for one number, in plain floats; one target per gradient."""
    total = 0.0
    for target in targets:
        product = theta * (theta - target)
        total += product
        theta = theta * (1 - rate * product)
    return total


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_algorithm_1_is_its_plain_float_loop(steps: int) -> None:
    weights = {"b": drawn(0, 3, 4).double(), "a": drawn(1, 5).double()}
    losses = Quadratic({n: drawn(2, *w.shape).double() for n, w in weights.items()}, noise=0.5)
    score = score_sampled(losses, weights, steps=steps, rate=0.05)
    assert losses.asked == list(range(steps))
    for name, w in weights.items():
        targets = [losses.targets(k)[name].flatten().tolist() for k in range(steps)]
        expected = [
            by_hand(theta, [t[i] for t in targets], 0.05)
            for i, theta in enumerate(w.flatten().tolist())
        ]
        assert score[name].flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_algorithm_a2_is_torch_optim_on_the_gate(optimiser: str) -> None:
    losses, weights, rate = TwoLayers(), TwoLayers().weights(torch.float64), 0.01
    xi = {n: torch.ones_like(w).requires_grad_() for n, w in weights.items()}
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser]
    descent = kind(xi.values(), lr=rate)
    for k in range(STEPS):
        descent.zero_grad()
        ((subject, prior),) = losses(k)({n: x * weights[n] for n, x in xi.items()})
        (subject + 0.3 * prior).backward()
        descent.step()
    options = {"steps": STEPS, "rate": rate, "prior_weight": 0.3}
    found = score_accelerated(losses, weights, optimiser=optimiser, **options)
    assert list(found) == sorted(weights)
    for name, x in xi.items():
        torch.testing.assert_close(found[name], (1 - x.detach()) / rate)


def test_one_gradient_is_the_same_in_both() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    gradient = differentiate(losses(0), weights, prior_weight=0.3, step=0).of
    sampled = score_sampled(losses, weights, steps=1, rate=0.1, prior_weight=0.3)
    options = {"steps": 1, "rate": 0.1, "prior_weight": 0.3}
    sgd = score_accelerated(losses, weights, optimiser="sgd", **options)
    for name, w in weights.items():
        torch.testing.assert_close(sampled[name], w * gradient[name])
        torch.testing.assert_close(sgd[name], w * gradient[name])


def test_they_differ_by_first_order_in_the_rate() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights(torch.float64)
    apart = []
    for rate in (1e-3, 1e-4, 1e-5):
        sampled = score_sampled(losses, weights, steps=STEPS, rate=rate)
        sgd = score_accelerated(losses, weights, steps=STEPS, rate=rate, optimiser="sgd")
        apart.append(distance(sampled, sgd))
    assert apart[0] > 1e-7
    assert apart[0] / apart[1] == pytest.approx(10, rel=0.1)
    assert apart[1] / apart[2] == pytest.approx(10, rel=0.1)


def test_a_rate_below_the_resolution_of_the_gate_still_counts() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    tiny = score_accelerated(losses, weights, steps=STEPS, rate=1e-11, optimiser="sgd")
    exact = score_sampled(losses, TwoLayers().weights(torch.float64), steps=STEPS, rate=1e-11)
    assert distance(tiny, exact) < 1e-5


def test_adam_counts_steps_whatever_the_scale() -> None:
    weights = {"w": torch.tensor([2.0, -2.0])}
    for curvature in (1e-4, 1e4):
        losses = Quadratic({"w": torch.zeros(2)}, curvature=curvature)
        found = score_accelerated(losses, weights, steps=20, rate=2e-5)["w"]
        torch.testing.assert_close(found, torch.tensor([20.0, 20.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("score", [score_sampled, score_accelerated])
def test_half_precision_is_scored_in_float32_and_never_written_to(score: Callable) -> None:
    losses, weights = TwoLayers(), TwoLayers().weights(torch.bfloat16)
    before = {n: w.clone() for n, w in weights.items()}
    found = score(losses, weights, steps=3, rate=1e-4)
    same = {n: w.float() for n, w in weights.items()}
    exact = score(losses, same, steps=3, rate=1e-4)
    for name, w in weights.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(w, before[name])
        assert (
            torch.corrcoef(torch.stack([found[name].flatten(), exact[name].flatten()]))[0, 1] > 0.9
        )


@pytest.mark.parametrize("score", [score_sampled, score_accelerated])
def test_the_order_of_a_dictionary_changes_no_bit(score: Callable) -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    turned = {V: weights[V], K: weights[K]}
    options = {"steps": 4, "rate": 1e-3}
    first, second = (score(losses, each, **options) for each in (weights, turned))
    assert list(first) == list(second)
    assert all(torch.equal(first[n], second[n]) for n in first)
