"""Refinement: exact counts, neurons that hinder each other, the growing mask, steered drift."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from cones.errors import SearchError
from cones.mask import NONE, Mask
from cones.search.certify import shut_in
from cones.search.loss import Loss, Losses, Part, flat, split
from cones.search.refine import refine as refined
from cones.search.settings import Settings
from toy_model import K, Quadratic, TwoLayers, V, drawn


def refine(
    losses: Losses,
    weights: Mapping[str, Tensor],
    ranking: Tensor,
    *,
    density: float,
    prior_weight: float = 0.1,
    within: Mask | None = None,
    **settings: object,
) -> tuple[Mask, Tensor, float]:
    """Refine with these settings."""
    given = {"density": density, "prior_weight": prior_weight, "within": within}
    return refined(losses, weights, ranking.clone(), Settings(**settings), **given)


class Planted(Quadratic):
    """A loss that is lowest where exactly one mask is shut; counts the neurons that are."""

    def __init__(self, size: int, share: float, *, noise: float = 0.0) -> None:
        self.weights = {"w": drawn(3, size), "v": drawn(4, size // 2, 2)}
        generator = torch.Generator().manual_seed(0)
        self.best = Mask.where(
            {n: torch.rand(w.shape, generator=generator) < share for n, w in self.weights.items()}
        )
        super().__init__(shut_in(self.weights, self.best), noise=noise)
        self.shut: list[int] = []

    def __call__(self, step: int) -> Loss:
        loss = super().__call__(step)

        def counted(weights: Mapping[str, Tensor]) -> Iterator[Part]:
            self.shut.append(sum(int((w == 0).sum()) for w in weights.values()))
            yield from loss(weights)

        return counted


def even(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros_like(flat(weights))


def test_the_best_mask_is_found_from_a_wrong_start() -> None:
    losses = Planted(80, 0.2)
    wrong = flat({n: drawn(9, *w.shape) for n, w in losses.weights.items()})
    options = {"density": losses.best.density, "steps": 150, "rate": 0.1}
    mask, _, _ = refine(losses, losses.weights, wrong, **options)
    assert mask == losses.best


def test_scores_follow_adam_on_the_gradient_with_the_mask_in_place() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights(torch.float64)
    ranking = {n: drawn(k, *w.shape).double() for k, (n, w) in enumerate(weights.items())}
    entries = torch.cat([ranking[n].flatten() for n in sorted(ranking)])
    count = round(0.4 * len(entries))
    border = entries.sort(descending=True).values[0]  # one neuron first: 1.32 % of 42 is none
    scale = (entries - border).abs().mean()
    latent = {n: ((r - border) / scale).clamp(-2, 2).requires_grad_() for n, r in ranking.items()}
    ascent = torch.optim.Adam(latent.values(), lr=0.1, maximize=True)
    steps = 6
    for k in range(steps):
        grown = round(1 + (count - 1) * min(1.0, k / (steps / 2)))
        cut = torch.cat([s.detach().flatten() for s in latent.values()]).topk(grown).values[-1]
        gate = {n: (s.detach() < cut).double().requires_grad_() for n, s in latent.items()}
        (part,) = losses(k)({n: w * gate[n] for n, w in weights.items()})
        subject, prior = part()
        found = torch.autograd.grad(subject + 0.3 * prior, list(gate.values()))
        for s, g in zip(latent.values(), found, strict=True):
            s.grad = g
        ascent.step()
    mask, scores, lam = refine(
        losses, weights, flat(ranking), density=0.4, steps=steps, rate=0.1, prior_weight=0.3
    )
    assert (len(mask), lam) == (count, 0.3)
    torch.testing.assert_close(scores, flat(latent))
    assert mask == Mask.where(split(scores >= scores.topk(count).values[-1], weights))


def test_a_dense_mask_grows_over_half_of_the_steps() -> None:
    dense = Planted(8, 0.5)
    refine(dense, dense.weights, even(dense.weights), density=0.25, steps=6, rate=0.1)
    assert dense.shut == [1, 2, 3, 4, 4, 4]
    sparse = Planted(500, 0.5)
    refine(sparse, sparse.weights, even(sparse.weights), density=0.0132, steps=4, rate=0.1)
    assert sparse.shut == [13] * 4


def test_guard_and_within_hold_throughout() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    inside = Mask.where({n: drawn(5, *w.shape) > 0 for n, w in weights.items()})
    options = {"density": 0.2, "steps": 20, "rate": 0.2}
    mask, _, _ = refine(losses, weights, even(weights), within=inside, **options)
    assert mask <= inside
    assert len(mask) == round(0.2 * 42)
    guarded, _, _ = refine(losses, weights, even(weights), guard=0.5, **options)
    for name, index in guarded.indices.items():
        kept = weights[name].flatten()[index].abs()
        assert bool((kept < 0.5 * weights[name].std(correction=0)).all())
    few = Mask({n: tuple(w.shape) for n, w in weights.items()}, {K: torch.tensor([1, 6]), V: NONE})
    found, _, _ = refine(losses, weights, even(weights), within=few, **options)
    assert found == few


def test_nothing_to_shut_is_refused() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    with pytest.raises(SearchError, match="found no weight to shut at density 0.001"):
        refine(losses, weights, even(weights), density=0.001, steps=1, rate=0.1)


class Tug:
    """A subject that gains by every weight that is shut, and a prior that it costs."""

    def __init__(self) -> None:
        self.weights = {"w": torch.ones(200)}
        self.gains, self.costs = drawn(1, 200).abs(), drawn(2, 200).abs()

    def __call__(self, step: int) -> Loss:
        noise = drawn(step + 10, 200)

        def loss(weights: Mapping[str, Tensor]) -> Iterator[Part]:
            open_ = weights["w"]
            yield lambda: (
                ((self.gains + noise) * open_).mean(),
                (self.costs * (1 - open_)).mean(),
            )

        return loss


def drift_of(losses: Tug, mask: Mask) -> float:
    return float((losses.costs * mask.hits()["w"]).mean())


@pytest.mark.parametrize("drift", [0.08, 0.12])
def test_lambda_is_steered_to_the_drift_that_is_asked_for(drift: float) -> None:
    losses = Tug()
    options = {"density": 0.2, "steps": 400, "rate": 0.02, "prior_weight": 0.1}
    start = losses.gains
    free, _, lam = refine(losses, losses.weights, start, **options)
    assert lam == 0.1
    mask, _, steered = refine(losses, losses.weights, start, drift=drift, **options)
    assert drift_of(losses, mask) == pytest.approx(drift, rel=0.2)
    assert drift_of(losses, free) > 0.14
    assert len(mask) == len(free) == 40
    assert steered > 0.1


def test_lambda_answers_at_once_and_for_good() -> None:
    losses, aim = Tug(), 0.01
    first = losses.gains
    options = {"density": 0.005, "steps": 1, "rate": 0.02, "drift": aim}  # one neuron
    mask, _, lam = refine(losses, losses.weights, first, **options)
    drift = aim + 0.1 * (drift_of(losses, mask) - aim)
    assert lam == pytest.approx(0.1 * (drift / aim) ** 3.03)
    _, _, most = refine(losses, losses.weights, first, **{**options, "drift": 1e-5})
    assert most == pytest.approx(0.1 * 2.718281828**3.03)  # bounded


def test_the_order_of_a_dictionary_changes_no_bit() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights()
    turned = dict(reversed(weights.items()))
    options = {"density": 0.2, "steps": 9, "rate": 0.1}
    first = refine(losses, weights, even(weights), **options)
    second = refine(losses, turned, even(turned), **options)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def test_half_precision_weights_are_read_only() -> None:
    losses, weights = TwoLayers(), TwoLayers().weights(torch.bfloat16)
    before = {n: w.clone() for n, w in weights.items()}
    _, scores, _ = refine(losses, weights, even(weights), density=0.2, steps=5, rate=0.1)
    assert scores.dtype == torch.float32
    assert all(torch.equal(w, before[n]) for n, w in weights.items())
