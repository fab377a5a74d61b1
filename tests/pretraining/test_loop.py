"""The loop: exact resume, rates, Muon."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pretraining.loop import Recipe, Run, averaged, train
from pretraining.muon import orthogonalised

RECIPE = Recipe(steps=6, batch=4, warmup=2, cooldown=0.5, average=0.5)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4, 10))


def trained(folder: Path, *stops: int) -> dict[str, Tensor]:
    """Train to each of these steps in a fresh run, as after interruptions."""
    for stop in stops:
        run = Run(net(), RECIPE, folder)

        def loss_of(draw: torch.Generator, run: Run = run, stop: int = stop) -> Tensor:
            if run.step == stop:
                raise KeyboardInterrupt
            return run.module(torch.rand(2, 3, 4, 4, generator=draw)).square().mean()

        if stop == RECIPE.steps:
            train(run, loss_of, label="t")
            continue
        with pytest.raises(KeyboardInterrupt):
            train(run, loss_of, label="t")
        run.save()
    return averaged(net(), folder).state_dict()


def test_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", 6)
    pieces = trained(tmp_path / "b", 2, 3, 6)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_rates_rise_stay_and_fall() -> None:
    recipe = Recipe(steps=100, batch=1, warmup=10, cooldown=0.2)
    shares = [recipe.share_at(step) for step in range(100)]
    assert shares[0] == 0.1
    assert shares[10:80] == [1.0] * 70
    assert shares[90] == pytest.approx(0.5)
    assert shares[-1] == pytest.approx(0.05)


def test_muon_moves_all_directions_alike() -> None:
    skewed = torch.randn(2, 12, 30) * torch.logspace(0, -2, 12)[None, :, None]
    values = torch.linalg.svdvals(orthogonalised(skewed))
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_average_lags_behind_the_weights(tmp_path: Path) -> None:
    run = Run(net(), RECIPE, tmp_path)
    start = run.average["0.weight"].clone()
    draws = [torch.Generator().manual_seed(0)]
    run.update(lambda draw: run.module(torch.rand(2, 3, 4, 4, generator=draw)).mean(), draws)
    moved, followed = run.weights["0.weight"] - start, run.average["0.weight"] - start
    keep = min(RECIPE.average, 2 / 11)
    assert torch.allclose(followed, moved * (1 - keep), atol=1e-6)


def test_a_loss_that_is_not_finite_is_refused_before_the_weights_change(tmp_path: Path) -> None:
    run = Run(net(), RECIPE, tmp_path)
    before = run.weights["0.weight"].clone()
    with pytest.raises(FloatingPointError, match="step 0"):
        run.update(
            lambda _: run.module(torch.ones(1, 3, 4, 4)).sum() * torch.inf, [torch.Generator()]
        )
    assert torch.equal(before, run.weights["0.weight"])
