"""What a laboratory hands to all methods alike."""

from pathlib import Path

import pytest

from experiments import lab as module
from experiments.lab import Effort
from experiments.studies.shared import FIRST_SEED, seeds
from experiments.subjects import PLACES
from tiny_lab import tiny_lab


def test_every_picture_has_noise_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, list] = {"said": [], "seeds": []}

    def sample(pipeline: object, said: list[str], *, seeds: list[int], **options: object) -> list:
        given["said"] += said
        given["seeds"] += seeds
        return []

    monkeypatch.setattr(module, "sample", sample)
    lab = tiny_lab(tmp_path)
    for draws in FIRST_SEED:
        lab.draw(list(PLACES), seeds(Effort(), draws))
    assert len(given["said"]) == len(PLACES) * (8 + 2 + 20)
    assert len(set(given["seeds"])) == len(given["seeds"])
    assert given["said"][:9] == ["beach"] * 8 + ["desert"]


def test_a_word_is_chosen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = tiny_lab(tmp_path)
    first = lab.heard(lab.examples["a_cat"])
    monkeypatch.delattr(module, "choose_start")
    assert lab.heard(lab.examples["a_cat"]) == first
    assert first.response > 0
    assert set(lab.start(lab.examples["a_cat"])) == {"text_encoder"}
