"""Algorithm 1 against plain floats, Algorithm A2 against torch.optim."""

from collections.abc import Callable

import pytest
import torch

from cones.search.loss import differentiate, flat, split
from cones.search.score import score_accelerated, score_sampled
from toy_model import K, Quadratic, TwoLayers, V, drawn

STEPS = 7


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
    score = split(score_sampled(losses, weights, steps=steps, rate=0.05), weights)
    assert losses.asked == list(range(steps))
    for name, w in weights.items():
        targets = [losses.targets(k)[name].flatten().tolist() for k in range(steps)]
        expected = [
            by_hand(theta, [t[i] for t in targets], 0.05)
            for i, theta in enumerate(w.flatten().tolist())
        ]
        assert score[name].flatten().tolist() == pytest.approx(expected)


def test_algorithm_a2_is_torch_optim_on_the_gate() -> None:
    losses, weights, rate = TwoLayers(), TwoLayers().weights(torch.float64), 0.01
    xi = {n: torch.ones_like(w).requires_grad_() for n, w in weights.items()}
    descent = torch.optim.Adam(xi.values(), lr=rate)
    for k in range(STEPS):
        descent.zero_grad()
        (part,) = losses(k)({n: x * weights[n] for n, x in xi.items()})
        subject, prior = part()
        (subject + 0.3 * prior).backward()
        descent.step()
    found = score_accelerated(losses, weights, steps=STEPS, rate=rate, prior_weight=0.3)
    torch.testing.assert_close(found, (1 - flat(xi)) / rate)


def test_one_gradient_is_that_of_the_loss() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    gradient = differentiate(losses(0), weights, prior_weight=0.3, step=0).of
    found = score_sampled(losses, weights, steps=1, rate=0.1, prior_weight=0.3)
    for name, each in split(found, weights).items():
        torch.testing.assert_close(each, weights[name] * gradient[name])


def test_a_rate_below_the_resolution_of_the_gate_still_counts() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    tiny = score_accelerated(losses, weights, steps=STEPS, rate=1e-11)
    exact = score_accelerated(losses, weights, steps=STEPS, rate=1e-9)
    torch.testing.assert_close(tiny, exact, rtol=1e-4, atol=1e-4)


def test_adam_counts_steps_whatever_the_scale() -> None:
    weights = {"w": torch.tensor([2.0, -2.0])}
    for curvature in (1e-4, 1e4):
        losses = Quadratic({"w": torch.zeros(2)}, curvature=curvature)
        found = score_accelerated(losses, weights, steps=20, rate=2e-5)
        torch.testing.assert_close(found, torch.tensor([20.0, 20.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("score", [score_sampled, score_accelerated])
def test_half_precision_is_scored_in_float32_and_never_written_to(score: Callable) -> None:
    losses, weights = TwoLayers(), TwoLayers().weights(torch.bfloat16)
    before = {n: w.clone() for n, w in weights.items()}
    found = score(losses, weights, steps=3, rate=1e-4)
    same = {n: w.float() for n, w in weights.items()}
    exact = score(losses, same, steps=3, rate=1e-4)
    assert found.dtype == torch.float32
    assert all(torch.equal(w, before[name]) for name, w in weights.items())
    assert torch.corrcoef(torch.stack([found, exact]))[0, 1] > 0.9


@pytest.mark.parametrize("score", [score_sampled, score_accelerated])
def test_the_order_of_a_dictionary_changes_no_bit(score: Callable) -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    turned = {V: weights[V], K: weights[K]}
    options = {"steps": 4, "rate": 1e-3}
    first, second = (score(losses, each, **options) for each in (weights, turned))
    assert torch.equal(first, second)
