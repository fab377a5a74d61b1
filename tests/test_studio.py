"""The studio draws what the library draws and keeps what did not change."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cones.attention import before_and_after, token_positions
from cones.concept import Concept, combine
from cones.concept_file import dumps, loads
from cones.errors import CodecError, ConesError, MaskError, SearchError
from cones.generate import generate, sample
from cones.plot import overlay, read_settings
from cones.ui.order import Choice, Order
from cones.ui.rows import weighed
from cones.ui.studio import KEPT, Stopped, Studio
from fakes import make_concept

PROMPT = "a V* cat on the grass"


@pytest.fixture
def pipeline(sd1: Any, fresh: Any) -> Any:
    return fresh(sd1)


@pytest.fixture
def studio(pipeline: Any) -> Studio:
    studio = Studio(pipeline, "tiny")
    studio.add("cat.safetensors", dumps(make_concept(pipeline)))
    studio.add("pot.safetensors", dumps(make_concept(pipeline, "V2*", "pot", seed=2)))
    return studio


def order(*choices: Choice, **changes: Any) -> Order:
    settings = {"prompt": PROMPT, "seed": 3, "steps": 2, "count": 1, "guidance": 4.0}
    return Order(choices=choices, **(settings | changes))


def bits(pipeline: Any) -> dict[str, torch.Tensor]:
    return {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}


def same_bits(pipeline: Any, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(w, before[n]) for n, w in pipeline.unet.named_parameters())


def pixels(data: bytes | Image.Image) -> np.ndarray:
    image = Image.open(io.BytesIO(data)) if isinstance(data, bytes) else data
    return np.asarray(image.convert("RGB"))


def test_rows_are_what_the_library_draws_and_the_weights_stay(studio: Studio) -> None:
    before = bits(studio.pipeline)
    concepts = [studio.concepts[number][1] for number in (1, 2)]
    drawn = studio.draw(order(Choice(1, 0.5), Choice(2, 0.5), count=5))
    assert same_bits(studio.pipeline, before)
    settings = {"steps": 2, "guidance": 4.0}
    shut = generate(studio.pipeline, concepts, PROMPT, seed=3, count=4, strength=0.5, **settings)
    plain = sample(studio.pipeline, [PROMPT] * 4, seeds=range(3, 7), **settings)
    for number in range(4):
        assert np.array_equal(pixels(studio.picture(drawn.shut, number)), pixels(shut[number]))
        found = pixels(studio.picture(drawn.untouched, number))
        assert np.array_equal(found, pixels(plain[number]))
    (last,) = sample(studio.pipeline, [PROMPT], seeds=[7], **settings)
    assert np.array_equal(pixels(studio.picture(drawn.untouched, 4)), pixels(last))
    assert drawn.words == PROMPT.split()
    assert drawn.notes == ["The prompt does not say 'V2*', so its subject will hardly appear."]


def test_the_strongest_concept_has_a_neuron(pipeline: Any) -> None:
    concepts = [make_concept(pipeline, seed=seed) for seed in (1, 2)]
    concepts.append(make_concept(pipeline, seed=3, scope="cross"))
    hits = [concept.mask.hits() for concept in concepts]
    for strengths in ([0.25, 1.0, 0.5], [0.5, 0.5, 0.25], [0.0, 1.0, 1.0]):
        before = bits(pipeline)
        layers = weighed(concepts, strengths)
        assert [layer.strength for layer in layers] == sorted({*strengths}, reverse=True)
        for layer in layers:
            layer.apply(pipeline.unet)
        for name, weight in pipeline.unet.named_parameters():
            strongest = torch.zeros_like(weight)
            for held, strength in zip(hits, strengths, strict=True):
                if name in held:
                    strongest = torch.maximum(strongest, held[name] * strength)
            assert torch.allclose(weight, before[name] * (1 - strongest), atol=1e-7)
        pipeline.unet.load_state_dict(before, strict=False)


def test_only_what_changed_is_drawn_anew(studio: Studio) -> None:
    asked: list[int] = []
    studio.pipeline.unet.register_forward_hook(lambda *_: asked.append(1))
    first = studio.draw(order(Choice(1)))
    assert (first.fresh, len(asked)) == (2, 4)
    assert studio.draw(order(Choice(1))) == replace(first, fresh=0)
    weaker = studio.draw(order(Choice(1, 0.5)))
    assert (weaker.fresh, weaker.untouched) == (1, first.untouched)
    assert weaker.shut != first.shut
    assert studio.draw(order(Choice(1, level=0))).fresh == 1
    assert studio.draw(order()).fresh == 0
    assert studio.draw(order()).shut is None
    assert len(asked) == 8
    for change in ({"seed": 4}, {"steps": 3}, {"guidance": 5.0}, {"prompt": "a V* cat"}):
        assert studio.draw(order(Choice(1), **change)).fresh == 2
    assert studio.draw(order(Choice(1))).fresh == 0


def test_a_word_that_comes_to_mean_something_is_drawn_anew(studio: Studio) -> None:
    before = studio.draw(order())  # V* is still cut into pieces
    after = studio.draw(order(Choice(1)))
    assert after.fresh == 2
    assert after.untouched != before.untouched


def test_old_rows_are_forgotten(studio: Studio) -> None:
    names = [studio.draw(order(seed=seed, steps=1)).untouched for seed in range(KEPT + 1)]
    studio.picture(names[1], 0)
    with pytest.raises(SearchError, match="found no picture 0 of row"):
        studio.picture(names[0], 0)
    with pytest.raises(SearchError, match="found no picture 1 of row"):
        studio.picture(names[1], 1)


def test_attention_is_that_of_the_library(studio: Studio) -> None:
    drawn = studio.draw(order(Choice(1), seed=2, count=2))
    concepts = [studio.concepts[1][1]]
    settings = {"seed": 3, "steps": 2, "guidance": 4.0}
    seen = before_and_after(studio.pipeline, concepts, PROMPT, **settings)
    tokens = token_positions(studio.pipeline.tokenizer, PROMPT, "V* cat")
    for name, one in zip((drawn.untouched, drawn.shut), seen, strict=True):
        expected = overlay(one.images[0], one.recording.map(tokens)[0].tolist())
        found = pixels(studio.attention(name, 1, "V* cat"))
        assert np.abs(found.astype(int) - pixels(expected)).max() <= 1
    with pytest.raises(SearchError, match="found no 'dog' among"):
        studio.attention(drawn.untouched, 0, "dog")


def test_attention_is_recorded_on_demand(studio: Studio) -> None:
    drawn = studio.draw(order(Choice(1), attention=False))
    with pytest.raises(SearchError, match="switch it on and draw"):
        studio.attention(drawn.shut, 0, "cat")
    before = studio.picture(drawn.shut, 0)
    again = studio.draw(order(Choice(1)))
    assert (again.fresh, again.shut) == (2, drawn.shut)
    assert studio.picture(drawn.shut, 0) == before
    assert studio.attention(drawn.shut, 0, "cat") != before
    assert studio.draw(order(Choice(1), attention=False)).fresh == 0


def test_pictures_say_how_they_were_made(studio: Studio, tmp_path: Path) -> None:
    drawn = studio.draw(order(Choice(1, 0.5, level=0), count=2))
    (tmp_path / "picture.png").write_bytes(studio.picture(drawn.shut, 1))
    settings = read_settings(tmp_path / "picture.png")
    concept = studio.concepts[1][1]
    assert settings == {
        "prompt": PROMPT,
        "seed": 4,
        "steps": 2,
        "guidance": 4.0,
        "model": "tiny",
        "concepts": [
            {
                "words": ["V* cat"],
                "density": concept.levels[0].density,
                "mask": concept.levels[0].digest,
                "strength": 0.5,
            }
        ],
    }


def test_the_mixture_is_the_union_under_the_chosen_words(studio: Studio) -> None:
    first, second = (studio.concepts[number][1] for number in (1, 2))
    both = loads(studio.mixture([Choice(1, 0.3, level=0, identifier="my*"), Choice(2)]))
    assert both.mask == first.levels[0] | second.levels[1]
    assert [member.identifier for member in both.members] == ["my*", "V2*"]
    assert dumps(both) == dumps(combine(Concept.at(first, 0.1).renamed("my*"), second))
    assert studio.mixture([Choice(1)]) == dumps(first)
    with pytest.raises(SearchError, match="found no concept switched on"):
        studio.mixture([])


def test_one_word_for_two_subjects_is_refused_until_one_is_renamed(studio: Studio) -> None:
    clash = (Choice(1), Choice(2, identifier="V*"))
    for work in (studio.mixture, lambda choices: studio.draw(order(*choices))):
        with pytest.raises(MaskError, match=r"'V\*' names a cat in one and a pot in the other"):
            work(clash)
    assert studio.draw(order(Choice(1), Choice(2, identifier="U*"))).fresh == 2
    with pytest.raises(ConesError, match="already means something else"):
        studio.draw(order(Choice(2, identifier="V*")))
    assert studio.draw(order(Choice(1))).fresh == 1


def test_files_that_do_not_fit_are_refused(studio: Studio, sdxl: Any) -> None:
    good = dumps(make_concept(studio.pipeline))
    with pytest.raises(CodecError):
        studio.add("cut.safetensors", good[:-1])
    with pytest.raises(CodecError):
        studio.add("page.html", b"<script>alert(1)</script>")
    with pytest.raises(MaskError, match="expected that model"):
        studio.add("other.safetensors", dumps(make_concept(sdxl)))
    assert sorted(studio.concepts) == [1, 2]
    studio.remove(1)
    studio.remove(1)
    assert sorted(studio.concepts) == [2]
    with pytest.raises(SearchError, match=r"found no concept 1; expected one of \[2\]"):
        studio.draw(order(Choice(1)))
    with pytest.raises(MaskError, match="level 7 of 2"):
        studio.draw(order(Choice(2, level=7)))


def test_cards_say_what_was_measured_of_the_level_in_use(studio: Studio) -> None:
    card = studio.describe(2)
    assert card["file"] == "pot.safetensors"
    assert card["members"] == [{"identifier": "V2*", "noun": "pot"}]
    assert card["verdict"] == "same"
    assert card["certificate"] == [
        "untouched 0.5000, shut 0.3750",
        "untouched 0.5000, shut 0.2500, random mask 0.7500",
    ]
    assert json.loads(json.dumps(card)) == card


def test_one_drawing_at_a_time_and_stopping_leaves_no_trace(studio: Studio) -> None:
    before, told = bits(studio.pipeline), []

    def meddle(*_: Any) -> None:
        told.append(studio.progress)
        for work in (lambda: studio.draw(order()), lambda: studio.add("x", good)):
            with pytest.raises(SearchError, match="a drawing under way"):
                work()
        if len(told) == 3:
            studio.stop()

    good = dumps(studio.concepts[1][1])
    hook = studio.pipeline.unet.register_forward_hook(meddle)
    with pytest.raises(Stopped):
        studio.draw(order(Choice(1)))
    hook.remove()
    assert told == [(1, 4), (2, 4), (3, 4)]
    assert studio.progress == (0, 0)
    assert same_bits(studio.pipeline, before)
    assert studio.draw(order(Choice(1))).fresh == 1  # the untouched row had been finished
    assert not studio.pipeline.unet._forward_pre_hooks


GIVEN = {"prompt": " a cat ", "seed": 1, "steps": 2, "guidance": 3, "count": 4, "choices": []}


def test_orders_are_read() -> None:
    choice = {"number": 1, "strength": 0.5, "level": 0, "identifier": " U* "}
    found = Order.parse(GIVEN | {"choices": [choice, {"number": 2, "strength": 1}]})
    expected = (Choice(1, 0.5, 0, "U*"), Choice(2, 1.0))
    assert found == Order("a cat", expected, 1, 2, 3.0, 4, attention=False)
    assert Order.parse(GIVEN | {"attention": True}).attention


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompt": " "}, "as prompt; expected 1 to"),
        ({"prompt": None}, "'None' as prompt"),
        ({"seed": 1.5}, "found seed 1.5; expected a whole number"),
        ({"seed": -1}, "found seed -1"),
        ({"steps": 0}, "found steps 0"),
        ({"count": 9}, "found count 9; expected a whole number from 1 to 8"),
        ({"count": True}, "found count True"),
        ({"guidance": float("nan")}, "found guidance nan"),
        ({"guidance": "7"}, "found guidance '7'"),
        ({"choices": None}, "found choices None; expected a list"),
        ({"choices": [1]}, "found int; expected an object"),
        ({"choices": [{"number": 1, "strength": 1.01}]}, "found strength 1.01; expected a number"),
        ({"choices": [{"number": "1", "strength": 1}]}, "found number '1'"),
        ({"choices": [{"number": 1, "strength": 1, "identifier": ""}]}, "as identifier"),
    ],
)
def test_odd_orders_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(SearchError, match=re.escape(match)):
        Order.parse(GIVEN | change)
