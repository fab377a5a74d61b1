"""A word of its own: for a while and gone without a trace, or for good and saved."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from cones.errors import ModelError
from cones.models import Pipeline, model_for
from cones.models.words import (
    candidates,
    encoders,
    spoken,
    vectors,
)
from fakes import tiny_pipeline


@pytest.fixture(params=[False, True], ids=["sd", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline(xl=request.param)


def rows_for(pipeline: Pipeline, *, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(1, 32, generator=draw) for name in encoders(pipeline)}


def state(pipeline: Pipeline) -> list:
    """Collect all that a word may change."""
    found = []
    for tokenizer, encoder in encoders(pipeline).values():
        found += [tokenizer.backend_tokenizer.to_str(), len(tokenizer), repr(vars(tokenizer))]
        found += [encoder.config.vocab_size, encoder.config.eos_token_id]
        found += [id(encoder.get_input_embeddings())]
        found += [encoder.get_input_embeddings().weight.numpy(force=True).tobytes()]
        found += [[(n, getattr(m, "eos_token_id", None)) for n, m in encoder.named_modules()]]
        found += [len(encoder.get_input_embeddings()._forward_hooks)]
        found += [len(encoder.get_input_embeddings()._forward_pre_hooks)]
    return found


def states(pipeline: Pipeline, prompts: list[str]) -> dict[str, Tensor]:
    return model_for(pipeline).condition(prompts)


def test_a_spoken_word_is_read_as_its_vectors(pipeline: Pipeline) -> None:
    """Check pooling too: the largest id of the text is no longer that of its end."""
    expected = states(pipeline, ["a sks cat", "a cat"])
    with spoken(pipeline, {"V*": vectors(pipeline, "sks")}):
        assert pipeline.tokenizer.tokenize("a V*, cat") == ["a</w>", "V*", ",</w>", "cat</w>"]
        found = states(pipeline, ["a V* cat", "a cat"])
        assert len(pipeline.text_encoder.get_input_embeddings().weight) < len(pipeline.tokenizer)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_leaving_restores_every_bit(pipeline: Pipeline) -> None:
    before = state(pipeline)

    def failing() -> None:
        with spoken(pipeline, {"V*": rows_for(pipeline)}):
            assert state(pipeline) != before
            with spoken(pipeline, {"V2*": rows_for(pipeline, seed=1)}):
                states(pipeline, ["a V* cat and a V2* dog"])
            assert "V2*" not in pipeline.tokenizer.get_added_vocab()
            assert "V*" in pipeline.tokenizer.get_added_vocab()
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert state(pipeline) == before


def test_nested_words_are_all_heard(pipeline: Pipeline) -> None:
    one, two = rows_for(pipeline), rows_for(pipeline, seed=1)
    with spoken(pipeline, {"V*": one, "V2*": two}):
        expected = states(pipeline, ["a V* cat and a V2* dog"])
    with spoken(pipeline, {"V*": one}), spoken(pipeline, {"V2*": two, "V*": one}):
        found = states(pipeline, ["a V* cat and a V2* dog"])
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_gradients_reach_the_vectors(pipeline: Pipeline) -> None:
    rows = {name: value.requires_grad_() for name, value in rows_for(pipeline).items()}
    with spoken(pipeline, {"V*": rows}):
        found = model_for(pipeline).embedded(["a V* cat"])["encoder_hidden_states"]
    assert all(bool(g.abs().sum() > 0) for g in torch.autograd.grad(found.sum(), rows.values()))


def test_a_word_that_means_something_else_is_refused(pipeline: Pipeline) -> None:
    before = state(pipeline)
    with pytest.raises(ModelError, match="'cat' already means something else to text_encoder"):
        spoken(pipeline, {"cat": rows_for(pipeline)}).__enter__()
    assert state(pipeline) == before
    with spoken(pipeline, {"cat": vectors(pipeline, "cat")}):
        assert not pipeline.tokenizer.get_added_vocab().keys() & {"cat"}


@pytest.mark.usefixtures("unchecked")
def test_refuses_vectors_of_another_model(pipeline: Pipeline) -> None:
    before, right = state(pipeline), rows_for(pipeline)
    narrow = {name: value[:, :3] for name, value in right.items()}
    none, two = ({n: x.expand(2, -1)[:k] for n, x in right.items()} for k in (0, 2))
    for rows in (narrow, none, two, {}, {"text_encoder_9": right["text_encoder"]}):
        with pytest.raises(ModelError, match="load the model this concept was found on"):
            spoken(pipeline, {"V*": rows}).__enter__()
    assert state(pipeline) == before


def test_a_word_of_several_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="'unheard' is not one token.* such as 'sks'"):
        vectors(tiny_pipeline(), "unheard")


def test_names_are_candidates_where_no_rare_word_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()
    assert candidates(pipeline) == ("sks", "ktn")
    monkeypatch.setattr("cones.models.words.RARE_WORDS", ())
    with pytest.raises(ModelError, match="load a model that has one"):
        candidates(pipeline)
    vocabulary = {**pipeline.tokenizer.get_vocab(), "mofib</w>": 300, "bagud</w>": 301}
    monkeypatch.setattr(pipeline.tokenizer, "get_vocab", lambda: vocabulary, raising=False)
    assert candidates(pipeline) == ("bagud", "mofib")


def test_a_tokenizer_without_vocabulary_is_named() -> None:
    pipeline = tiny_pipeline(xl=True)
    pipeline.tokenizer_2 = CLIPTokenizer()
    with pytest.raises(ModelError, match="no vocabulary for tokenizer_2; expected the files"):
        encoders(pipeline)
    pipeline.tokenizer_2 = None
    with pytest.raises(ModelError, match="model's folder 'tokenizer_2'"):
        encoders(pipeline)


def test_the_tokenizer_that_others_hold_is_restored_too() -> None:
    """A pipeline made from the same parts shares the tokenizer, and hears the word meanwhile."""
    pipeline = tiny_pipeline()
    shared = pipeline.tokenizer
    untouched = copy.deepcopy(shared)
    with spoken(pipeline, {"V*": rows_for(pipeline)}):
        assert shared.tokenize("V*") == ["V*"]
    assert shared.tokenize("V*") == untouched.tokenize("V*")
    assert shared.get_vocab() == untouched.get_vocab()
