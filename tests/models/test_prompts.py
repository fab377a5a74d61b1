"""Prompts that would lose the word of a subject are refused, others pass."""

import pytest

from cones.errors import PromptError
from cones.models import Pipeline
from cones.models.prompts import check_prompt, parts
from cones.models.words import encoders, spoken
from fakes import LENGTH, tiny_concept, tiny_pipeline


@pytest.fixture(params=[False, True], ids=["sd", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline(xl=request.param)


def check(pipeline: Pipeline, prompt: str, *identifiers: str) -> None:
    rows = tiny_concept(pipeline).words[0].embeddings
    with spoken(pipeline, dict.fromkeys(identifiers, rows)):
        check_prompt(pipeline, prompt, identifiers)


@pytest.mark.parametrize(
    "prompt",
    [
        "a V* cat",
        "a V*, red",
        "V*",
        "the V*'s cat",
        "(V* cat)",
        "a V*-cat",
        'a "V*" cat: red',
        "a cat",
        "",
        "XV* and V*",
    ],
)
def test_plain_prompts_pass(pipeline: Pipeline, prompt: str) -> None:
    check(pipeline, prompt, "V*", "XV*")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a V*cat", r"found 'V\*' glued to a word in 'a V\*cat'; expected spaces around it"),
        ("aV* cat", r"found 'V\*' glued"),
        ("a V*2 cat", r"found 'V\*' glued"),
        ("a (V* cat:1.3)", r"found '\(V\* cat:1.3\)' in the prompt; expected plain words"),
        ("a V* cat (red: 0.5)", r"found '\(red: 0.5\)'"),
        ("a V* cat <lora:x:1>", "found '<lora:x:1>' in the prompt.*load_lora_weights"),
        ("a V* cat <LYCO:x>", "found '<LYCO:x>'"),
    ],
)
def test_prompts_that_lose_the_word_are_refused(
    pipeline: Pipeline, prompt: str, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        check(pipeline, prompt, "V*", "V2*")


def test_a_word_that_no_part_holds_is_refused(pipeline: Pipeline) -> None:
    """A single word without spaces may be longer than what is read at once."""
    fits = LENGTH - 2
    check(pipeline, "cat, " * 30 + "V*", "V*")
    check(pipeline, "cat" + ",cat" * 5 + ",V*", "V*")  # 13 tokens
    with pytest.raises(PromptError, match=rf"'V\*' as token {fits + 1} .*first {fits}; say it"):
        check(pipeline, "a cat" + ",cat" * 6 + ",V*", "V*")


def test_a_prompt_that_fits_stays_as_it_is(pipeline: Pipeline) -> None:
    for prompt in ("", " a  V*\tcat ", "cat " * (LENGTH - 2)):
        assert parts(pipeline, prompt) == [prompt]


def test_models_without_a_u_net_read_a_prompt_once(pipeline: Pipeline) -> None:
    prompt = "cat " * 30
    assert len(parts(pipeline, prompt)) == 3
    pipeline.unet = None
    assert parts(pipeline, prompt) == [prompt]


def test_a_long_prompt_is_cut_between_words(pipeline: Pipeline) -> None:
    """Words of several tokens stay whole, and the shortest tokenizer counts."""
    encoders(pipeline)["text_encoder"][0].model_max_length = 8
    prompt = "a cat on the\ngrass unheard in a  V*-cat room"
    rows = tiny_concept(pipeline).words[0].embeddings
    with spoken(pipeline, {"V*": rows}):
        found = parts(pipeline, prompt)
        tokenizer = pipeline.tokenizer
        lengths = [len(tokenizer.tokenize(part)) for part in found]
        whole = tokenizer.tokenize(prompt)
        assert [token for part in found for token in tokenizer.tokenize(part)] == whole
    assert [word for part in found for word in part.split()] == prompt.split()
    assert found[0] == "a cat on the grass"
    assert all(length <= 6 for length in lengths if length != len(tokenizer.tokenize("unheard")))


def test_a_plain_word_may_be_part_of_another() -> None:
    pipeline = tiny_pipeline()
    check_prompt(pipeline, "a mask and a dogsks", ["sks"])
