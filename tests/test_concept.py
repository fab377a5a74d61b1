"""Concepts keep their levels nested and their words apart, and combine like their masks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cones.concept import Concept, Word
from cones.errors import MaskError, SubjectError
from cones.fingerprint import Fingerprint
from cones.mask import Mask

CROSS, SELF = {"attn2.to_k": (10, 10)}, {"attn1.to_k": (20, 10)}
BASE = Fingerprint("maker/base", "1" * 64, bytes(128))


def mask(*neurons: int, shapes: dict[str, tuple[int, ...]] = CROSS) -> Mask:
    """Build a mask over the one parameter of ``shapes``."""
    (name,) = shapes
    return Mask(shapes, {name: torch.tensor(neurons, dtype=torch.int64)})


def word(identifier: str = "V*", noun: str = "cat", value: float = 1.0) -> Word:
    return Word(identifier, noun, {"text_encoder": torch.full((1, 4), value)})


def concept(*levels: Mask, said: Word | None = None) -> Concept:
    return Concept(
        levels or (mask(1), mask(1, 2, 3)), (said or word(),), BASE, {"steps": 3}, {"n": 1}
    )


def test_the_densest_level_is_in_use() -> None:
    found = concept()
    assert found.mask == mask(1, 2, 3)
    assert found.densities == (0.01, 0.03)
    assert found.density == 0.03
    assert found.prompt == "a V* cat"


def test_a_sparser_level() -> None:
    found = concept()
    assert found.at(0.03) is found
    assert found.at(0.0287) is found  # a rounded figure means the level
    for density in (0.01, 0.0096, 0.02):
        assert found.at(density).levels == (mask(1),)
        assert not found.at(density).certificate
    for density in (0.5, 0.032, 0.009, 0.0):
        with pytest.raises(MaskError, match=r"expected one that is stored: 1.0000%, 3.0000%"):
            found.at(density)


def test_set_operations() -> None:
    a, b = concept(mask(1, 2)), concept(mask(2, 3), said=word("V2*", "dog"))
    assert (a | b).mask == a.mask | b.mask
    assert (a & b).mask == a.mask & b.mask
    assert (a - b).mask == a.mask - b.mask
    assert (a | replace(b, base=replace(BASE, model="a copy"))).base == BASE
    assert (a | b).prompt == "a V* cat and a V2* dog"
    assert (a - b).words == a.words
    assert not (a | b).certificate
    assert (a | b).settings["combined"] == "union"
    assert (a | b).settings["parts"][1] == {"words": "a V2* dog", "mask": b.mask.digest}
    assert ((a | b) | a).mask == (a | b).mask


def test_concepts_of_different_scopes_meet() -> None:
    a = concept(mask(1, 2))
    b = concept(mask(7, shapes=SELF), said=word("V2*", "dog"))
    assert len((a | b).mask) == 3
    assert (a | b).density == 3 / 300
    assert (a - b).mask == a.mask
    assert not (a & b).mask


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (word("V*", "dog"), "a cat and for another dog"),
        (word("V*", "cat", 2.0), "a cat and for another cat"),
        (word("V*", "cat"), "a cat and for another cat"),  # two cats that start from one word
    ],
)
def test_one_identifier_for_two_subjects_is_refused(other: Word, names: str) -> None:
    a, b = concept(mask(1)), concept(mask(2), said=other)
    with pytest.raises(MaskError, match=rf"'V\*' twice, for {names}.*renamed"):
        a | b
    assert (a | b.renamed("V2*")).words[1].identifier == "V2*"
    assert (a - b).prompt == "a V* cat"


def test_another_base_is_refused() -> None:
    other = replace(concept(said=word("V2*", "dog")), base=replace(BASE, signs=b"\x55" * 128))
    for operation in ("__or__", "__and__", "__sub__"):
        with pytest.raises(MaskError, match="shares 50% of signs"):
            getattr(concept(), operation)(other)


def test_malformed_concepts_are_refused() -> None:
    with pytest.raises(MaskError, match="0 levels and 1 words"):
        Concept((), (word(),), BASE)
    with pytest.raises(MaskError, match="1 levels and 0 words"):
        Concept((mask(1),), (), BASE)
    with pytest.raises(MaskError, match="level 1 lacks"):
        concept(mask(1, 2), mask(2, 3))
    with pytest.raises(MaskError, match="level 2 lacks"):
        concept(mask(1), mask(1), mask(1) | mask(shapes=SELF))


def test_malformed_words_are_refused() -> None:
    with pytest.raises(SubjectError, match="the identifier is 'a cat'"):
        Word("a cat", "cat")
    for bad in (torch.full((1, 4), torch.nan), torch.ones(1, 4).double()):
        with pytest.raises(SubjectError, match="embeddings\\['text_encoder'\\] of 'V\\*'"):
            Word("V*", "cat", {"text_encoder": bad})


def test_settings_become_plain_json() -> None:
    odd = {"seeds": (1, 2), "rate": np.float32(0.5), "loss": torch.tensor([1.0, torch.inf])}
    found = Concept((mask(1),), (word(),), BASE, odd, {"nan": float("nan"), "type": torch.float32})
    assert found.settings == {"seeds": [1, 2], "rate": 0.5, "loss": [1.0, None]}
    assert found.certificate == {"nan": None, "type": "torch.float32"}
    json.dumps([found.settings, found.certificate], allow_nan=False)


def test_a_concept_shows_itself() -> None:
    found = replace(concept(), settings={"rule": "refine", "rates": [0.25, 1e-9], "of": {"n": 2}})
    assert str(found).splitlines() == [
        "a V* cat",
        "  neurons          3 of 100 weights",
        "  levels           1.000%, 3.000%",
        "  base             maker/base",
        "settings:",
        "  rule             refine",
        "  rates            [0.25, 1e-09]",
        "  of               n 2",
        "certificate:",
        "  n                1",
    ]
    assert repr(found).startswith("Concept('a V* cat', Mask(3 of 100 weights")


def test_a_control_has_one_level_and_no_certificate() -> None:
    control = concept().using(mask(9))
    assert control.levels == (mask(9),)
    assert not control.certificate
    assert control.settings == {"steps": 3}
