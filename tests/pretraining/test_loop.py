"""The loop: exact resume, rates, Muon."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pretraining import loop
from pretraining.loop import Recipe, Work, averaged
from pretraining.muon import orthogonalised

RECIPE = {"steps": 6, "batch": 4, "warmup": 2, "cooldown": 0.5, "average": 0.5}


class Toy(loop.Stage[nn.Sequential]):
    stop = 6

    def _build(self) -> nn.Sequential:
        layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4, 10))
        return nn.Sequential(*layers)

    def _prepare(self) -> Tensor:
        return torch.ones(4)

    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        if self.step == self.stop:
            raise KeyboardInterrupt
        noise = torch.rand(len(index), 3, 4, 4, generator=draw)
        return self.module(noise + index[:, None, None, None]).square().mean()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    monkeypatch.setitem(loop.RECIPES, "toy", RECIPE)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)  # after every step
    return Toy


def trained(kind: type[Toy], folder: Path, *stops: int) -> dict[str, Tensor]:
    """Train to each of these steps in a fresh run, as after interruptions."""
    for stop in stops:
        stage = kind(Work(folder))
        stage.stop = stop
        with contextlib.nullcontext() if stop == 6 else pytest.raises(KeyboardInterrupt):
            stage.train()
    return averaged(stage.module, folder / "toy").state_dict()


def test_interrupted_run_ends_with_the_same_bits(tmp_path: Path, toy: type[Toy]) -> None:
    whole = trained(toy, tmp_path / "a", 6)
    pieces = trained(toy, tmp_path / "b", 2, 3, 6)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    losses = [json.loads((tmp_path / f / "toy/log.json").read_text())["losses"] for f in "ab"]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


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


def test_average_lags_behind_the_weights(tmp_path: Path, toy: type[Toy]) -> None:
    stage = toy(Work(tmp_path))
    stage.chances = torch.ones(4)
    start = stage.average["0.weight"].clone()
    stage.update()
    moved, followed = stage.weights["0.weight"] - start, stage.average["0.weight"] - start
    keep = min(RECIPE["average"], 2 / 11)
    assert torch.allclose(followed, moved * (1 - keep), atol=1e-6)


def test_gradients_that_are_not_finite_change_nothing(tmp_path: Path, toy: type[Toy]) -> None:
    stage = toy(Work(tmp_path))
    stage.chances, before = torch.ones(4), stage.weights["0.weight"].clone()
    stage.loss = lambda index, draw: stage.module(torch.ones(1, 3, 4, 4)).sum() * torch.inf
    with pytest.raises(RuntimeError, match="non-finite"):
        stage.update()
    assert torch.equal(before, stage.weights["0.weight"])


def test_steps_and_batch_follow_the_scale(tmp_path: Path, toy: type[Toy]) -> None:
    assert toy(Work(tmp_path, 0.5)).recipe.steps == 3
    assert toy(Work(tmp_path, 0.5, {"toy": 9})).recipe.steps == 9
