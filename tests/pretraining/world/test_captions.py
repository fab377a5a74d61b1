import numpy as np
import pytest

from pretraining.world.captions import LIGHTS, PLACES, Labels, caption, phrase, prompt, sentence

CAT = Labels("cat", "orange", "black", "stripes", "plain", None)


def test_phrase_has_the_right_article() -> None:
    assert phrase("cat") == "a cat"
    assert phrase("cat", main="orange") == "an orange cat"
    assert phrase("sunglasses", main="orange") == "orange sunglasses"
    assert phrase("cat", name="V*") == "a V* cat"


def test_phrase_says_only_patterns_with_a_word() -> None:
    words = {"main": "white", "second": "black"}
    assert phrase("cat", **words, pattern="stripes") == "a striped white and black cat"
    assert phrase("dog", **words, pattern="saddle") == "a white and black dog"


def test_prompt_says_place_and_light() -> None:
    assert prompt("cat", "beach", light="dim") == "a photo of a cat on a beach in dim light"
    assert prompt("cat") == "a photo of a cat"


@pytest.mark.parametrize(
    ("relation", "expected"),
    [("and", "a cat, a dog and a car"), ("next to", "a cat, a dog next to a car")],
)
def test_sentence_joins_three(relation: str, expected: str) -> None:
    said = ["a cat", "a dog", "a car"]
    assert sentence(said, relation=relation, template="{}") == expected


def captions(thing: Labels, n: int = 2000) -> list[str]:
    rng = np.random.default_rng(0)
    return [caption([thing], rng, relation="and", place="snow", light=None) for _ in range(n)]


def test_caption_says_the_place_in_92_percent() -> None:
    said = np.mean(["in the snow" in text for text in captions(CAT)])
    assert said == pytest.approx(0.92, abs=0.02)


def test_caption_says_each_form_as_often_as_promised() -> None:
    texts = captions(CAT)
    assert np.mean(["orange" in text for text in texts]) == pytest.approx(0.65, abs=0.03)
    assert np.mean(["black" in text for text in texts]) == pytest.approx(0.35, abs=0.03)
    assert np.mean(["striped" in text for text in texts]) == pytest.approx(0.15, abs=0.03)


def test_a_name_takes_the_place_of_markings() -> None:
    named = Labels("cat", "orange", "black", "stripes", "plain", "mofib")
    texts = captions(named)
    assert all("mofib" in text and "black" not in text for text in texts)
    assert np.mean(["orange" in text for text in texts]) == pytest.approx(0.15, abs=0.03)


def test_phrases_of_places_and_lights_differ() -> None:
    assert len({*PLACES.values(), *LIGHTS.values()}) == len(PLACES) + len(LIGHTS)
