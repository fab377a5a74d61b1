"""Prompts that would lose the word of a subject are refused, others pass."""

import pytest

from cones.errors import PromptError
from cones.models import Pipeline
from cones.models.words import check_prompt, encoders, spoken
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


def test_a_word_behind_the_last_token_is_refused(pipeline: Pipeline) -> None:
    fits = LENGTH - 2
    check(pipeline, "cat " * (fits - 1) + "V*", "V*")
    with pytest.raises(PromptError, match=rf"'V\*' as token {fits + 1} .*first {fits}, which"):
        check(pipeline, "cat " * fits + "V*", "V*")
    check(pipeline, "V* " + "cat " * 30, "V*")


def test_the_shorter_tokenizer_counts() -> None:
    pipeline = tiny_pipeline(xl=True)
    encoders(pipeline)["text_encoder_2"][0].model_max_length = 6
    with pytest.raises(PromptError, match="as token 5 of the prompt; expected .* first 4"):
        check(pipeline, "cat cat cat cat V*", "V*")


def test_a_plain_word_may_be_part_of_another() -> None:
    pipeline = tiny_pipeline()
    check_prompt(pipeline, "a mask and a dogsks", ["sks"])
