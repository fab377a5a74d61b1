"""The ways to draw many concepts in one batch agree, and are counted."""

import pytest
import torch
from torch import Tensor

from experiments import batch, library
from fakes import tiny_pipeline


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_all_ways_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "DENSITY", 0.3)
    unet, draw = tiny_pipeline().unet, torch.Generator().manual_seed(0)
    noise = torch.randn(6, 4, 8, 8, generator=draw)
    text = torch.randn(6, 16, 32, generator=draw)

    def call(rows: slice) -> Tensor:
        return unet(noise[rows], torch.tensor(500), encoder_hidden_states=text[rows]).sample

    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    found = {row["key"]: row for row in batch.compared("tiny", unet, call, 3, 2)}
    assert all(torch.equal(before[name], w) for name, w in unet.state_dict().items())
    assert found["tiny-single"]["ratio"] == 1
    assert found["tiny-in-turn"]["off"] == 0
    assert max(found[f"tiny-{way}"]["off"] for way in ("own-weights", "corrections")) < 1e-5
    assert found["tiny-single"]["off"] > 1e-3
    assert all(row["ms"] > 0 for row in found.values())


def test_pictures_and_swaps_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "REPEATS", 1)
    monkeypatch.setattr(batch, "SWAPS", 3)
    monkeypatch.setattr(batch, "SIZES", {"sd15": {**tiny_pipeline().unet.config}})
    pipeline, said = tiny_pipeline(), []
    found = batch.pictures(pipeline, lambda *at: said.append(at))
    assert found["largest_difference"] <= 1 < found["largest_between_concepts"]
    assert found["ratio"] == found["many_seconds"] / found["one_seconds"]
    rows = batch.swaps(pipeline, lambda *at: said.append(at))
    assert [row["key"] for row in rows] == ["built-in", "sd15"]
    assert all(row["ratio"] == row["last_ms"] / row["first_ms"] for row in rows)
