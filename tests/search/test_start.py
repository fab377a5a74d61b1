"""V* starts from the word that fits the photos best, and not from the loudest."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cones.models import Model, model_for
from cones.search.start import choose_start
from fakes import tiny_pipeline, tiny_pixels

SAYS = {"a cat": 0.5, "a sks cat": 0.9, "a red cat": 0.1, "a blue cat": -0.3}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Give a model that predicts one number under each prompt, where unit noise is right."""
    monkeypatch.setattr("cones.search.start.candidates", lambda _: ("sks", "blue", "red"))
    model = model_for(tiny_pipeline())

    def condition(prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"said": torch.tensor([SAYS[prompt] for prompt in prompts])}

    def predict(_: object, noised: Tensor, __: Tensor, given: dict[str, Tensor]) -> Tensor:
        return given["said"][:, None, None, None].expand_as(noised)

    monkeypatch.setattr(model, "condition", condition)
    monkeypatch.setattr(model, "predict", predict)
    return model


def test_words_are_ranked_by_the_error_on_the_photos(model: Model) -> None:
    words = ("V*", "V2*", "V3*", "V4*")
    found = [choose_start(model, tiny_pixels(), "cat", identifier=word) for word in words]
    assert [each.word for each in found] == ["red", "blue", "sks", "red"]
    gains = [each.gain for each in found[:3]]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0 > gains[2]  # against .5, which the plain noun says
    assert [each.response for each in found[:3]] == pytest.approx([0.8, 1.6, 0.8], rel=1e-5)


def test_the_error_that_a_word_lowers_is_that_of_eq_1(model: Model) -> None:
    """Of unit noise, a constant c has the error 1 + c^2, up to the mean of the noise."""
    start = choose_start(model, tiny_pixels(8), "cat")
    assert start.gain == pytest.approx(1 - 1.01 / 1.25, abs=0.05)


def test_only_the_best_of_the_first_round_are_tried_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cones.search.start.ROUNDS", ((None, 4), (1, 16)))
    tried: list[str] = []
    says = model.condition

    def condition(prompts: Sequence[str]) -> dict[str, Tensor]:
        tried.extend(prompts)
        return dict(says(prompts))

    monkeypatch.setattr(model, "condition", condition)
    assert choose_start(model, tiny_pixels(), "cat", identifier="V3*").word == "sks"
    assert (tried.count("a red cat"), tried.count("a blue cat")) == (2, 1)


def test_a_real_network_is_asked_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cones.search.start.candidates", lambda _: ("sks", "blue", "red"))
    model = model_for(tiny_pipeline())
    whole = choose_start(model, tiny_pixels(), "cat")
    monkeypatch.setattr("cones.search.start._AT_ONCE", (3, 3))
    parts = choose_start(model, tiny_pixels(), "cat")
    assert parts.word == whole.word
    assert parts[1:] == pytest.approx(whole[1:], rel=0.05)
