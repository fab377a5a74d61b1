"""What a search costs is known before it starts, and it fits into the memory that is free."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cones.models import Model, model_for
from cones.search import memory
from cones.search.memory import Cost, fitted, measured, recomputing
from cones.search.settings import Settings
from fakes import tiny_pipeline

PLENTY = 10**12


@pytest.fixture(scope="module")
def model() -> Model:
    return model_for(tiny_pipeline())


@pytest.fixture(scope="module")
def cost(model: Model) -> Cost:
    return measured(model, "a cat")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors without data stand for those that left the device."""
    monkeypatch.setattr(memory, "HOME", torch.device("meta"))


def chosen(
    model: Model, cost: Cost, monkeypatch: pytest.MonkeyPatch, free: int, **changes: int
) -> tuple[int | None, int, str, str]:
    """Give samples at once, blocks that are recomputed, where the weights lie, what was said."""
    monkeypatch.setitem(memory.FREE, "cpu", lambda _: (free, 0))
    notes = []
    with fitted(model, Settings(**changes), cost, lambda *at: notes.append(at[-1])) as way:
        settings, weights = way
        again = sum(getattr(part, memory._FLAG, False) for part in model.module.modules())
        assert weights.keys() == model.weights().keys()
    (where,) = {weight.device.type for weight in weights.values()}
    return settings.micro_batch, again, where, *notes


def test_samples_give_way_first_then_scores_and_then_activations(
    model: Model, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = []
    for free in (int(5e6 * 0.92**k) for k in range(45)):
        count, again, where, note = chosen(model, cost, monkeypatch, free, batch=4, prior_batch=6)
        assert not model.module.is_gradient_checkpointing
        assert note.startswith(f"{count} samples at once, {again} of {len(cost.blocks)} blocks")
        assert ("in the computer's memory" in note) == (where == "meta")
        ways.append((again, where, -int(count or 0)))
    assert ways == sorted(ways)
    assert {count for again, where, count in ways if (again, where) == (0, "cpu")} == {
        -6, -5, -4, -3, -2, -1,
    }  # fmt: skip
    assert len({again for again, _, _ in ways}) > 5
    assert ways[-1] == (len(cost.blocks), "meta", -1)


def test_what_was_asked_for_and_what_was_set_stay(
    model: Model, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    with fitted(model, Settings(), cost, lambda *at: said.append(at)) as (settings, weights):
        assert (settings, said) == (Settings(), [])  # nobody says what is free
        assert all(weights[name] is w or weights[name].data_ptr() == w.data_ptr()
                   for name, w in model.weights().items())  # fmt: skip
    assert chosen(model, cost, monkeypatch, 0, micro_batch=3)[:3] == (3, len(cost.blocks), "meta")
    assert chosen(model, cost, monkeypatch, PLENTY, micro_batch=3)[:3] == (3, 0, "cpu")
    model.module.enable_gradient_checkpointing()
    every = sum(hasattr(part, memory._FLAG) for part in model.module.modules())
    assert chosen(model, cost, monkeypatch, PLENTY, batch=5)[:3] == (5, every, "cpu")
    assert measured(model, "a cat").kept(0) == cost.kept(0)
    assert model.module.is_gradient_checkpointing
    model.module.disable_gradient_checkpointing()


def test_a_tenth_of_the_device_is_spared(
    model: Model, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, _, note = chosen(model, cost, monkeypatch, 2 * 10**9)
    assert note.endswith(" of 2.0 GB")
    monkeypatch.setitem(memory.FREE, "cpu", lambda _: (2 * 10**9, 5 * 10**9))
    notes = []
    with fitted(model, Settings(), cost, lambda *at: notes.append(at[-1])):
        assert notes[0].endswith(" of 1.5 GB")


def saved(model: Model, held: dict[int, int]) -> Iterator[Tensor]:
    """Predict once for a gradient; take down all that is held for it, by its place in memory."""
    weights = {n: w.clone().requires_grad_() for n, w in model.weights().items()}
    fixed = {w.untyped_storage().data_ptr() for w in model.module.parameters()}
    fixed |= {w.untyped_storage().data_ptr() for w in weights.values()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = torch.randn(1, *model.latent_shape), torch.zeros(1).long(), model.condition(["x"])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield model.predict(weights, *inputs)


def test_the_bytes_of_a_sample_are_those_that_its_gradient_holds(model: Model, cost: Cost) -> None:
    held: dict[int, int] = {}
    (_,) = saved(model, held)
    assert cost.kept(0) == pytest.approx(sum(held.values()), rel=0.02)
    for again in (3, len(cost.blocks)):
        held.clear()
        with recomputing(model.module, {block.part for block in cost.blocks[:again]}):
            (_,) = saved(model, held)
        largest = max(block.largest for block in cost.blocks)
        assert sum(held.values()) <= cost.kept(again) * 1.1
        assert cost.kept(again) <= (sum(held.values()) + largest) * 1.2


def test_the_operations_are_counted(cost: Cost) -> None:
    few = Settings(steps=2, score_steps=1, batch=3, prior_batch=1, prior_count=4, prior_steps=5)
    with_gradient, without = memory.passes(few)
    assert with_gradient == 3 * (3 + 1)
    assert cost.of(few) == pytest.approx(cost.flop * (2.25 * with_gradient + without))
    for changes, other in (
        ({"rule": "adam"}, 2 * (3 + 1)),
        ({"prior": "none"}, 3 * 3),
        ({"density": None}, 7 * (3 + 1)),
    ):
        assert memory.passes(few.changed(changes))[0] == other
    assert cost.device.type == "cpu"


def test_on_the_device_a_search_holds_its_weights_three_times_and_its_scores(
    model: Model, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sum(weight.numel() for weight in model.weights().values())
    least = count * (3 * 4 + memory.STATE) + memory.FLOWING * cost.kept(0)  # float32
    for share, where in ((1.001, "cpu"), (0.999, "meta")):
        found = chosen(model, cost, monkeypatch, int(share * least), micro_batch=1)
        assert found[1:3] == (0, where)


def test_weights_that_are_offloaded_are_searched_where_they_are(
    model: Model, cost: Cost, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {name: weight.to("meta") for name, weight in model.weights().items()}
    monkeypatch.setattr(model, "weights", lambda _="both": away)
    assert chosen(model, cost, monkeypatch, PLENTY, batch=2)[1:3] == (0, "meta")


def test_a_block_that_is_computed_again_needs_its_largest_layer_alone(cost: Cost) -> None:
    assert all(block.largest <= block.kept for block in cost.blocks)
    assert any(block.largest < block.kept for block in cost.blocks)  # of several layers
