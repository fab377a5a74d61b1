from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from experiments.lab import Lab
from experiments.methods import Tuned, learn
from experiments.methods.merging import constrained, fused, summed
from experiments.methods.rivals import rival
from tiny_lab import tiny_lab


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_merged_projection_keeps_the_words_and_changes_captions_least() -> None:
    weight, captions = drawn(0, 5, 8), drawn(1, 40, 8)
    words, values = drawn(2, 3, 8), drawn(3, 3, 5)
    found = constrained(weight, captions, words, values, ridge=0.0)
    assert torch.allclose(found @ words.T, values.T, atol=1e-5)
    # Where the constraint leaves freedom, the objective's gradient is zero (its optimum).
    free = torch.linalg.svd(words, full_matrices=True).Vh[3:]
    gradient = (found - weight) @ captions.T @ captions
    assert torch.allclose(gradient @ free.T, torch.zeros(5, 5), atol=1e-3)


def test_words_that_repeat_each_other_are_met_all_the_same() -> None:
    weight, captions, words, values = (
        drawn(0, 5, 8),
        drawn(1, 40, 8),
        drawn(2, 2, 8),
        drawn(3, 2, 5),
    )
    once = constrained(weight, captions, words, values)
    twice = constrained(weight, captions, words.repeat(2, 1), values.repeat(2, 1))
    assert torch.allclose(once, twice, atol=1e-4)


def test_a_sum_of_loras_adds_their_changes() -> None:
    ranks, names = (2, 3), ("layer.lora_A.weight", "layer.lora_B.weight")
    parts = [
        Tuned(
            {},
            (),
            adapter=dict(zip(names, (drawn(k, r, 6), drawn(9 + k, 4, r)), strict=True)),
            config={"kind": "lora", "r": r},
        )
        for k, r in enumerate(ranks)
    ]
    adapter, config = summed(parts)
    a, b = (adapter[name] for name in names)
    expected = sum(part.adapter[names[1]] @ part.adapter[names[0]] for part in parts)
    assert torch.allclose(b @ a, expected, atol=1e-5)
    assert config == {"kind": "lora", "r": 5}


def loud(lab: Lab, key: str) -> Tuned:
    """Give a LoRA that plainly changes what the model says."""
    found = learn(lab, "lora", lab.chosen([key]))
    assert isinstance(found, Tuned)
    adapter = {
        n: drawn(len(n), *t.shape) / 4 if ".lora_B." in n else t for n, t in found.adapter.items()
    }
    return replace(found, adapter=adapter)


@torch.no_grad()
def said(lab: Lab, tuned: Tuned, prompt: str) -> Tensor:
    with tuned.applied(lab.pipeline):
        noised, times = drawn(5, 4, *lab.model.latent_shape), torch.tensor([50, 300, 600, 900])
        return lab.model.predict({}, noised, times, lab.model.condition([prompt] * 4))


def test_a_lora_fused_alone_is_itself_in_plain_weights(tmp_path: Path) -> None:
    lab = tiny_lab(tmp_path)
    (cat,) = lab.chosen(["a_cat"])
    lora = loud(lab, "a_cat")
    merged = replace(lora, adapter={}, config={}, weights=fused(lab, [lora], [cat]))
    plain = replace(lora, adapter={}, config={})
    wanted, found, before = (said(lab, each, "a V* cat") for each in (lora, merged, plain))
    assert (found - wanted).norm() < 0.3 * (before - wanted).norm()


def test_merging_is_one_method_and_two_subjects(tmp_path: Path) -> None:
    lab = tiny_lab(tmp_path)
    subjects = lab.chosen(["a_cat", "a_dog"])
    for name in ("custom-diffusion-merged", "lora-sum", "lora-fused"):
        found = learn(lab, name, subjects)
        assert isinstance(found, Tuned)
        assert found.phrases == ("a V* cat", "a V2* dog")
        assert set(found.words) == {"V*", "V2*"}
        assert found.gradients == 6
        assert said(lab, found, "a V* cat and a V2* dog").isfinite().all()
    assert rival("lora", budget=5).budget == 5
