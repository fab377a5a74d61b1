"""Memory and arithmetic are counted as they are spent."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from cones import Subject, find
from cones.models import Model
from cones.search.settings import Settings
from experiments import memory
from experiments.checkpoints import QUICK, write_page
from experiments.small import small
from experiments.tables import write_results

WIDTHS = {"block_out_channels": (32,) * 4, "cross_attention_dim": 32}


def test_bytes_are_counted_while_they_are_held() -> None:
    given = torch.zeros(1000)
    with memory.Live([given]) as live:
        kept = given + 1
        gone = kept * 2
        del gone
        view = kept.view(10, 100)
        assert (live.now, live.peak) == (4000, 8000)
        del kept, view
        assert live.now == 0


def test_recomputation_takes_fewer_bytes_and_more_operations() -> None:
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    blocks = [torch.nn.Sequential(linear(64, 64), relu(), linear(64, 64)) for _ in range(8)]
    found = {}
    for recompute in (False, True):
        x = torch.zeros(256, 64, requires_grad=True)
        with memory.Live() as live:
            y = x
            for block in blocks:
                y = checkpoint(block, y, use_reentrant=False) if recompute else block(y)
            torch.autograd.grad(y.sum(), [x])
        found[recompute] = live
    assert found[True].flop > found[False].flop
    assert found[True].peak < found[False].peak


def step(model: Model, count: int) -> None:
    memory.one_step(model, Settings(micro_batch=count), model.weights())


def test_operations_are_those_of_pytorch(tiny: None) -> None:
    with memory.full_size("sd15") as model:
        with memory.Live() as live:
            step(model, 2)
        mapping = {f: partial(each) for f, each in memory.FORMULAS.items() if "flash" in str(f)}
        for each in mapping.values():
            vars(each)["_get_raw"] = True  # they are as PyTorch keeps its own
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            step(model, 2)
    assert live.flop == counter.get_total_flops() > 0


def test_passes_are_those_of_a_search() -> None:
    counted = [0, 0]
    pipeline = small()

    def count(_: object, inputs: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
        given = options["sample"] if "sample" in options else inputs[0]
        counted[0 if torch.is_grad_enabled() else 1] += len(given)

    pipeline.unet.register_forward_pre_hook(count, with_kwargs=True)
    estimates = []
    find(
        pipeline,
        Subject(torch.rand(4, 3, 64, 64), "cat"),
        progress=lambda stage, *told: estimates.append(told) if stage == "estimate" else None,
        **QUICK,
    )
    deep, shallow = memory.memory.passes(Settings(**QUICK))
    assert counted[0] == deep + 1  # one tells what a gradient takes
    # V* has one candidate here, and no look of a certificate has less than two draws.
    assert counted[1] - shallow == pytest.approx(memory.START - 4 * 20 + 8, abs=2)
    assert len(estimates) == 1
    assert "PFLOP" in estimates[0][-1]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SIZES", {"sd15": {"sample_size": 16, **WIDTHS}})
    monkeypatch.setattr(memory, "ENCODERS", {"sd15": 0})


def test_scores_lie_where_the_library_puts_them(tiny: None) -> None:
    lies = {}
    with memory.full_size("sd15") as model:
        card = {n: w.device.type for n, w in model.weights().items()}
        for place in ("cpu", "meta"):  # the card, and the computer
            at_home = {n: w.to(place) for n, w in model.weights().items()}
            with memory.Live(model.module.parameters()) as live:
                lies[place] = memory.one_step(model, Settings(micro_batch=1), at_home).device.type
                lies[f"{place} peak"] = live.peak
        assert {n: w.device.type for n, w in model.weights().items()} == card
    assert (lies["cpu"], lies["meta"]) == ("cpu", "meta")
    assert lies["cpu peak"] > lies["meta peak"]


def test_the_library_chooses_for_a_card(
    tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CARDS", (1, 0.02, 0))
    found = memory.results(tmp_path, lambda *at: None)
    large, middle, none = found["rows"]
    assert (large["fits"], none["fits"]) == (True, False)
    assert large["way"].startswith(f"{Settings().batch} samples at once, 0 of ")
    assert none["way"].startswith("1 samples at once, ")
    assert none["way"].endswith("scores in the computer's memory")
    assert none["pflop"] >= middle["pflop"] >= large["pflop"]
    assert none["gb"] <= middle["gb"] <= large["gb"]
    write_results(tmp_path, "memory", found)
    assert "| sd15 | 128 | 1 GB |" in write_page(tmp_path).read_text("utf-8")
