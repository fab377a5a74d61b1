"""Refuse prompts in which a subject's word would be lost without anyone being told.

What other programs read as weights or networks, diffusers reads as text; a word that is glued to
another, or that stands behind the last token a model reads, is not seen at all.
"""

import re
from collections.abc import Sequence

from cones.errors import PromptError
from cones.models.protocol import Pipeline
from cones.models.words import encoders

_WEIGHT = re.compile(r"\([^()]*:\s*[\d.]+\s*\)")
_NETWORK = re.compile(r"<(lora|lyco|hypernet):[^>]*>", re.IGNORECASE)


def check_prompt(pipeline: Pipeline, prompt: str, identifiers: Sequence[str]) -> None:
    """Refuse a prompt in which an identifier would be lost.

    The pipeline has to know the identifiers, as inside :func:`cones.models.words.spoken`.

    Raises:
        PromptError: ``V*cat``; V* behind the last token that is read; ``(V* cat:1.3)``;
            ``<lora:...>``.
    """
    if found := _NETWORK.search(prompt) or _WEIGHT.search(prompt):
        raise PromptError(
            f"found {found[0]!r} in the prompt; expected plain words, for diffusers reads this as "
            "text; load a LoRA with pipeline.load_lora_weights(), weigh words with prompt_embeds"
        )
    longest_first = sorted(map(re.escape, identifiers), key=len, reverse=True)
    for found in re.finditer("|".join(longest_first), prompt) if identifiers else ():
        around = prompt[max(found.start() - 1, 0) : found.start()] + prompt[found.end() :][:1]
        # A plain word such as 'sks' may well be part of another one.
        if re.search(r"\w", around) and not re.fullmatch(r"\w+", found[0]):
            raise PromptError(
                f"found {found[0]!r} glued to a word in {prompt!r}; expected spaces around it, "
                f"for the model cannot read it so; write for example 'a {found[0]} cat'"
            )
    for tokenizer, _ in encoders(pipeline).values():
        limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        said = tokenizer.tokenize(pipeline.maybe_convert_prompt(prompt, tokenizer))
        lost = [token for token in said[limit:] if token in identifiers]
        if lost:
            raise PromptError(
                f"found {lost[0]!r} as token {limit + said[limit:].index(lost[0]) + 1} of the "
                f"prompt; expected it among the first {limit}, which are all that the model "
                "reads; say it earlier"
            )
