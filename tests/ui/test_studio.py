"""The studio draws what the library draws, keeps what did not change and stops cleanly."""

import base64
import io
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cones.drawing import generate
from cones.errors import ConesError, MaskError
from cones.models import model_for
from cones.ui import studio as studios
from cones.ui.studio import Choice, Order, Studio
from fakes import tiny_concept, tiny_pipeline

PROMPT = "a V* cat on the grass"
DRAWING: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 4.0}


@pytest.fixture
def studio() -> Studio:
    pipeline = tiny_pipeline()
    studio = Studio(pipeline)
    studio.add("cat.safetensors", tiny_concept(pipeline))
    studio.add("jar.safetensors", tiny_concept(pipeline, "V2*", "jar", seed=2))
    return studio


def order(*choices: Choice, **changes: Any) -> Order:  # noqa: ANN401 - fields of an order
    return Order(
        **{"prompt": PROMPT, "seed": 3, "count": 1, "choices": [*choices], **DRAWING} | changes
    )


def on(number: int, **changes: Any) -> Choice:  # noqa: ANN401 - fields of a choice
    return Choice(number=number, **changes)


def drawn(studio: Studio, asked: Order) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    studio.draw(asked, told.append, threading.Event())
    return told


def rows(told: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {line["row"]: line["pictures"] for line in told if "row" in line}


def pixels(address: str) -> np.ndarray:
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_rows_are_what_the_library_draws_and_the_weights_stay(studio: Studio) -> None:
    before = {n: w.detach().clone() for n, w in studio.pipeline.unet.named_parameters()}
    concepts = [studio.loaded[number][1] for number in (1, 2)]
    found = rows(drawn(studio, order(on(1, strength=0.5), on(2), count=5)))
    assert all(torch.equal(w, before[n]) for n, w in studio.pipeline.unet.named_parameters())
    for row, strengths in (("untouched", [0.0, 0.0]), ("shut", [0.5, 1.0])):
        given = {"strengths": strengths, "seeds": range(3, 8), **DRAWING}
        expected = generate(studio.pipeline, concepts, PROMPT, **given)
        assert len(found[row]) == 5
        for address, image in zip(found[row], expected, strict=True):
            assert np.array_equal(pixels(address), np.asarray(image.convert("RGB")))


def test_the_untouched_row_is_drawn_if_asked_for_or_alone(studio: Studio) -> None:
    both = rows(drawn(studio, order(on(1))))
    assert list(both) == ["untouched", "shut"]
    told = drawn(studio, order(on(1), untouched=False))
    assert rows(told) == {"shut": both["shut"]}
    assert sum("done" in line for line in told) == 2
    assert list(rows(drawn(studio, order(untouched=False)))) == ["untouched"]


def test_progress_is_told(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cones.ui.studio", "cones.models.sampling"):
        monkeypatch.setattr(f"{module}.at_once", lambda _: 4)
    told = drawn(studio, order(on(2), count=5))
    steps = [(line["done"], line["total"]) for line in told if "done" in line]
    assert steps == [(k, 8) for k in range(8)]  # two rows, two batches, two steps


def test_stopping_leaves_no_trace(studio: Studio) -> None:
    unet, stop = studio.pipeline.unet, threading.Event()
    before = {n: w.detach().clone() for n, w in unet.named_parameters()}
    hooks = len(unet._forward_pre_hooks)
    told: list[dict[str, Any]] = []

    def tell(line: dict[str, Any]) -> None:
        told.append(line)
        if line.get("done") == 2:  # the first step of the second row
            stop.set()

    with pytest.raises(ConesError, match="stopped"):
        studio.draw(order(on(1)), tell, stop)
    assert [line["done"] for line in told if "done" in line] == [0, 1, 2]
    assert list(rows(told)) == ["untouched"]
    assert all(torch.equal(w, before[n]) for n, w in unet.named_parameters())
    assert len(unet._forward_pre_hooks) == hooks
    assert list(rows(drawn(studio, order(on(1))))) == ["untouched", "shut"]


def test_what_cannot_be_drawn_is_not_kept(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, known = studio.pipeline, list(studio.loaded)
    other = tiny_pipeline(seed=9)
    with pytest.raises(MaskError):
        studio.add("other", tiny_concept(other))
    monkeypatch.setattr(studios, "MOST_LOADED", 2)
    with pytest.raises(MaskError, match="found third beside 2 concepts"):
        studio.add("third", tiny_concept(pipeline, "V3*", seed=3))
    assert list(studio.loaded) == known


def test_choices_say_density_and_word(studio: Studio) -> None:
    sparse = studio.loaded[1][1].densities[0]
    both = order(on(1, density=sparse, identifier="my*"), on(2))
    first, second = studio.chosen(both)
    assert first.mask == studio.loaded[1][1].levels[0]
    assert (first.prompt, second.prompt) == ("a my* cat", "a V2* jar")
    assert second.mask == studio.loaded[2][1].mask
    with pytest.raises(MaskError, match="found no concept 3;"):
        studio.chosen(order(on(1), on(3)))
    with pytest.raises(MaskError, match="density is 90"):
        studio.chosen(order(on(1, density=0.9)))
    with pytest.raises(ConesError):
        studio.chosen(order(on(1, identifier="two words")))


def test_one_word_for_two_subjects_is_refused_until_one_is_renamed(studio: Studio) -> None:
    with pytest.raises(MaskError):
        drawn(studio, order(on(1), on(2, identifier="V*")))
    assert rows(drawn(studio, order(on(1), on(2, identifier="U*"))))["shut"]


def test_models_are_known_by_name(studio: Studio) -> None:
    assert studio.model.name == model_for(studio.pipeline).name
