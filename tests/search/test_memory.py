"""A search fits into the memory that is free: smaller micro-batches first, recomputation last."""

import pytest
import torch

from cones.models import Model, model_for
from cones.search import memory
from cones.search.loss import Examples
from cones.search.memory import fitted
from cones.search.settings import Settings
from fakes import tiny_pipeline


@pytest.fixture(scope="module")
def model() -> Model:
    return model_for(tiny_pipeline())


def shown(model: Model) -> Examples:
    return Examples(torch.zeros(2, *model.latent_shape), model.condition(["a cat", "a dog"]))


def chosen(model: Model, **changes: int) -> tuple[int | None, bool, list[str]]:
    """Give what was chosen: samples at once, whether they are recomputed, and what was said."""
    notes = []
    told = fitted(model, Settings(**changes), shown(model), lambda *at: notes.append(at[-1]))
    with told as settings:
        return settings.micro_batch, model.module.is_gradient_checkpointing, notes


def test_recomputation_comes_last(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in range(4_000_000, 0, -40_000):
        monkeypatch.setitem(memory.FREE, "cpu", lambda _, free=free: free)
        count, recomputed, (note,) = chosen(model, batch=4, prior_batch=6)
        assert not model.module.is_gradient_checkpointing
        assert note.startswith(f"{count} samples at once")
        assert ("recomputed" in note) == recomputed
        found.append((recomputed, -int(count or 0)))
    assert found == sorted(found)
    assert {count for recomputed, count in found if not recomputed} == {-6, -5, -4, -3, -2, -1}
    assert found[-1] == (True, -1)


def test_what_was_asked_for_and_what_was_set_stay(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(model) == (None, False, [])  # nobody says what is free
    monkeypatch.setitem(memory.FREE, "cpu", lambda _: 0)
    assert chosen(model, micro_batch=3) == (3, False, [])
    model.module.enable_gradient_checkpointing()
    monkeypatch.setitem(memory.FREE, "cpu", lambda _: 10**12)
    assert chosen(model)[:2] == (8, True)
    assert model.module.is_gradient_checkpointing
    model.module.disable_gradient_checkpointing()


def test_a_sample_is_as_large_as_what_its_gradient_keeps(model: Model) -> None:
    kept: dict[int, int] = {}
    fixed = {w.untyped_storage().data_ptr() for w in model.module.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in fixed:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pairs, weights = shown(model), {n: w.clone() for n, w in model.weights().items()}
    fixed |= {w.requires_grad_().untyped_storage().data_ptr() for w in weights.values()}
    said = {n: value[:1] for n, value in pairs.condition.items()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.predict(weights, pairs.latents[:1], torch.zeros(1, dtype=torch.long), said)
    estimate = memory.PLAIN * memory._outputs(model, pairs)
    assert 0.7 < estimate / sum(kept.values()) < 1.4
