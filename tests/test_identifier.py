"""A word of its own: one token, a rare word's embedding, kept when saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cones.backbones import Backbone, backbone_for, load_pipeline
from cones.errors import BackboneError


@pytest.fixture(params=["sd1", "sdxl"])
def backbone(request: pytest.FixtureRequest, fresh: Callable[[Any], Any]) -> Backbone:
    """Give a family that may be changed."""
    return backbone_for(fresh(request.getfixturevalue(request.param)))


def rows(backbone: Backbone, word: str) -> dict[str, torch.Tensor]:
    """Read the embedding of a word that is one token."""
    found = {}
    for end in ("", "_2"):
        encoder = getattr(backbone.pipeline, f"text_encoder{end}", None)
        if encoder is not None:
            tokenizer = getattr(backbone.pipeline, f"tokenizer{end}")
            (index,) = tokenizer(word, add_special_tokens=False).input_ids
            found[f"text_encoder{end}"] = encoder.get_input_embeddings().weight.data[[index]]
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Compare embeddings bit by bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_identifier_is_one_token_that_starts_as_a_rare_word(backbone: Backbone) -> None:
    tokenizer, encoder = backbone.pipeline.tokenizer, backbone.pipeline.text_encoder
    old = encoder.get_input_embeddings().weight.data.clone()
    assert tokenizer.tokenize("a V* cat") == ["a</w>", "v</w>", "*</w>", "cat</w>"]
    state = torch.get_rng_state()
    found = backbone.register("V*")
    assert torch.equal(torch.get_rng_state(), state)
    assert tokenizer.tokenize("a V* cat") == ["a</w>", "V*", "cat</w>"]
    assert tokenizer.tokenize("a V*, cat") == ["a</w>", "V*", ",</w>", "cat</w>"]
    assert same(found, rows(backbone, "V*"))
    assert same(found, rows(backbone, "sks"))
    new = encoder.get_input_embeddings().weight.data
    assert torch.equal(new[:-1], old)
    assert encoder.config.vocab_size == len(new) == len(tokenizer)


def test_prompts_of_the_identifier_are_those_of_the_rare_word(backbone: Backbone) -> None:
    """Check pooling too: the largest id of the text is no longer that of its end."""
    before = backbone.condition(["a sks cat", "a cat"])
    backbone.register("V*")
    after = backbone.condition(["a V* cat", "a cat"])
    for name, value in before.items():
        assert torch.equal(value, after[name])


def test_registering_again_changes_nothing(backbone: Backbone) -> None:
    first = backbone.register("V*")
    size = len(backbone.pipeline.tokenizer)
    assert same(first, backbone.register("V*"))
    assert same(first, backbone.register("V*", rare="ktn"))
    assert same(first, backbone.register("V*", embeddings=first))
    assert len(backbone.pipeline.tokenizer) == size
    other = {name: value + 1 for name, value in first.items()}
    with pytest.raises(BackboneError, match="already means something else"):
        backbone.register("V*", embeddings=other)
    assert same(first, rows(backbone, "V*"))


def test_subjects_get_different_words(backbone: Backbone) -> None:
    found = [backbone.register(word) for word in ("V1*", "V2*", "V*", "W*")]
    assert same(found[0], rows(backbone, "sks"))
    assert same(found[1], rows(backbone, "ktn"))
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])
    assert backbone.pipeline.tokenizer.tokenize("V1* V2*") == ["V1*", "V2*"]


def test_the_number_picks_the_word_whatever_the_order(backbone: Backbone) -> None:
    assert same(backbone.register("V2*"), rows(backbone, "ktn"))


def test_a_chosen_rare_word(backbone: Backbone) -> None:
    assert same(backbone.register("V*", rare="pot"), rows(backbone, "pot"))
    with pytest.raises(BackboneError, match="'unheard' is not one token"):
        backbone.register("W*", rare="unheard")
    assert backbone.pipeline.tokenizer.tokenize("W*") == ["w</w>", "*</w>"]


def test_without_rare_words_the_last_of_the_vocabulary(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cones.backbones.identifier.RARE_WORDS", ())
    found = backbone.register("V*")
    table = backbone.pipeline.text_encoder.get_input_embeddings().weight.data
    start = backbone.pipeline.tokenizer.bos_token_id
    assert torch.equal(found["text_encoder"][0], table[start - 1])


def test_embeddings_of_a_concept_file(backbone: Backbone, generator: torch.Generator) -> None:
    given = {
        name: torch.randn(2, value.shape[1], generator=generator)
        for name, value in rows(backbone, "sks").items()
    }
    assert same(backbone.register("V*", embeddings=given), given)
    assert same(backbone.register("V*"), given)
    tokenizer = backbone.pipeline.tokenizer
    said = backbone.pipeline.maybe_convert_prompt("a V* cat", tokenizer)
    assert tokenizer.tokenize(said) == ["a</w>", "V*", "V*_1", "cat</w>"]
    swapped = {name: value.flip(0) for name, value in given.items()}
    backbone.register("W*", embeddings=swapped)
    states = [backbone.condition([f"a {w} cat"])["encoder_hidden_states"] for w in ("V*", "W*")]
    assert not torch.allclose(*states)


def test_saved_and_loaded(backbone: Backbone, tmp_path: Path) -> None:
    expected = backbone.register("V*")
    backbone.pipeline.save_pretrained(tmp_path / "model")
    again = backbone_for(load_pipeline(tmp_path / "model"))
    assert again.pipeline.tokenizer.tokenize("a V* cat") == ["a</w>", "V*", "cat</w>"]
    assert same(rows(again, "V*"), expected)
    assert same(again.register("V*"), expected)
    states = [b.condition(["a V* cat"])["encoder_hidden_states"] for b in (backbone, again)]
    assert torch.equal(*states)


@pytest.mark.parametrize("word", ["", "my cat", " V*", "V_1"])
def test_refuses_words(backbone: Backbone, word: str) -> None:
    with pytest.raises(BackboneError, match="expected one word without spaces"):
        backbone.register(word)


def test_refuses_embeddings_of_another_model(backbone: Backbone) -> None:
    size = len(backbone.pipeline.tokenizer)
    right = rows(backbone, "sks")
    bad = [
        {name: value[:, :3] for name, value in right.items()},
        {"text_encoder_9": torch.zeros(1, 32)},
        {name: value[:0] for name, value in right.items()},
    ]
    for embeddings in bad:
        with pytest.raises(BackboneError, match="load the model this concept was found on"):
            backbone.register("V*", embeddings=embeddings)
    assert len(backbone.pipeline.tokenizer) == size


def test_a_known_word_is_not_overwritten(backbone: Backbone) -> None:
    assert same(backbone.register("cat"), rows(backbone, "cat"))
    given = {name: value + 1 for name, value in rows(backbone, "cat").items()}
    with pytest.raises(BackboneError, match="already means something else"):
        backbone.register("cat", embeddings=given)


def test_spare_rows_are_used_and_a_stale_count_is_put_right(backbone: Backbone) -> None:
    encoder = backbone.pipeline.text_encoder
    rows_before = len(encoder.get_input_embeddings().weight) + 4
    encoder.resize_token_embeddings(rows_before)
    encoder.config.vocab_size = 7  # as unload_textual_inversion() leaves a wrong number
    assert same(backbone.register("V*"), rows(backbone, "sks"))
    assert encoder.config.vocab_size == rows_before == len(encoder.get_input_embeddings().weight)
