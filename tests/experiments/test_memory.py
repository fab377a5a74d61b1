"""Memory and arithmetic are counted as they are spent."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from cones import Subject, find
from cones.models import model_for
from cones.search.settings import Settings
from experiments import memory
from experiments.checkpoints import QUICK
from experiments.small import small

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


def test_operations_are_those_of_pytorch() -> None:
    model = model_for(small())
    with memory.Live() as live:
        memory.one_gradient(model, 2)
    mapping = {f: partial(each) for f, each in memory.FORMULAS.items() if "flash" in str(f)}
    for each in mapping.values():
        vars(each)["_get_raw"] = True  # they are as PyTorch keeps its own
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        memory.one_gradient(model, 2)
    assert live.flop == counter.get_total_flops() > 0


def test_passes_are_those_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [0, 0]
    pipeline = small()

    def count(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        counted[0 if torch.is_grad_enabled() else 1] += len(inputs[0])

    pipeline.unet.register_forward_pre_hook(count)
    find(pipeline, Subject(torch.rand(4, 3, 64, 64), "cat"), **QUICK)
    expected = memory.passes(Settings(**QUICK))
    assert tuple(counted) == (expected[0], expected[1] - 4 * (len(memory.RARE_WORDS) - 1))


def test_the_library_chooses_for_a_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "SIZES", {"sd15": {"sample_size": 16, **WIDTHS}})
    monkeypatch.setattr(memory, "CARDS", (1, 0))
    for _ in range(2):  # the second time all is known
        memory.run(tmp_path, tmp_path / "docs", lambda *at: None)
        monkeypatch.setattr(memory, "one_gradient", None)
    text = (tmp_path / "docs" / "results" / "memory.json").read_text("utf-8")
    large, small = json.loads(text)["rows"]
    assert large["fits"]
    assert not small["fits"]
    assert (large["settings"]["checkpointing"], small["settings"]["checkpointing"]) == (0, 1)
    assert small["settings"]["micro_batch"] == 1
    assert small["pflop"] >= large["pflop"]
    assert small["gb"] <= large["gb"]
