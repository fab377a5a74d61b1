from itertools import product
from pathlib import Path

import pytest

from cones.errors import SubjectError
from experiments.subjects import PATTERNS, PLACES, Example, groups, load_examples, prompt
from pretraining.world import captions


@pytest.fixture(scope="module")
def examples() -> dict[str, Example]:
    return load_examples()


def test_twelve_subjects_are_kept_from_choices(examples: dict[str, Example]) -> None:
    assert sum(not each.tuning for each in examples.values()) == 12
    assert sum(each.tuning for each in examples.values()) == 6


def test_subjects_of_a_group_have_identifiers_of_their_own(examples: dict[str, Example]) -> None:
    keys = [key for key, each in examples.items() if not each.tuning]
    for size in (2, 3, 4):
        found = groups(keys, size)
        assert sorted(key for group in found for key in group) == sorted(keys)
        for group in found:
            assert len({examples[key].identifier for key in group}) == size


def test_prompts_are_those_the_built_in_model_learnt_from(examples: dict[str, Example]) -> None:
    assert PLACES == captions.PLACES
    assert PATTERNS == captions.PATTERNS
    for each, place in product(examples.values(), PLACES):
        traits = {"main": each.main, "second": each.second, "pattern": each.pattern}
        assert prompt([each.in_words], place) == captions.prompt(each.noun, place, **traits)
        assert prompt([each.plain], place) == captions.prompt(each.noun, place)
        named = captions.prompt(each.noun, place, name=each.identifier)
        assert prompt([each.phrase], place) == named


def test_several_things_are_joined_as_captions_join_them() -> None:
    for phrases in (["a cat"], ["a cat", "a dog"], ["a cat", "a dog", "a jar"]):
        assert prompt(phrases, "snow") == captions.sentence(phrases, place="snow")


def test_photos_of_a_subject(examples: dict[str, Example]) -> None:
    each = examples["striped_cat"]
    subject = each.subject(128, masked=True)
    assert subject.pixels.shape == (5, 3, 128, 128)
    assert len(each.seen(128)) == 4
    assert each.seen(128).equal(subject.pixels[:4])
    assert len(each.subject(128, photos=2)) == 2
    for part in ("kept", "other", "stranger"):
        assert len(each.part(part, 128)) == len(each.masks(part, 128)) == len(subject.pixels)
    assert 0.02 < subject.masks.mean() < 0.9
    assert set(subject.masks.unique().tolist()) == {0.0, 1.0}


def test_without_subjects_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="found no subject.*expected.*checkout"):
        load_examples(tmp_path)
