"""See that text encoders read what a prompt says: whole, in parts if it is long, or not at all.

CLIP reads 75 tokens. Longer prompts are cut between words, so no word of a subject is cut in two;
the parts are read one by one and what they say is joined, as A1111 does.
"""

import inspect
import re
from collections.abc import Sequence

import torch

from cones.errors import PromptError
from cones.models.base import Model, Part, Pipeline
from cones.models.unet import UNetModel
from cones.models.words import encoders, reads

_WEIGHT = re.compile(r"\([^()]*:\s*[\d.]+\s*\)")  # other programs read it so, diffusers as text
_NETWORK = re.compile(r"<(lora|lyco|hypernet):[^>]*>", re.IGNORECASE)  # likewise


def check_prompt(pipeline: Pipeline, prompt: str, identifiers: Sequence[str]) -> None:
    """Refuse a prompt in which an identifier would be lost.

    The pipeline has to know the identifiers, as inside :func:`spoken`. Refused are ``V*cat``, V*
    behind the last token that is read, ``(V* cat:1.3)`` and ``<lora:...>``.
    """
    if found := _NETWORK.search(prompt) or _WEIGHT.search(prompt):
        raise PromptError(
            f"found {found[0]!r} in the prompt; expected plain words, for diffusers reads this as "
            "text; load a LoRA with pipeline.load_lora_weights(), weigh words with prompt_embeds"
        )
    longest_first = "|".join(sorted(map(re.escape, identifiers), key=len, reverse=True))
    for part in parts(pipeline, prompt) if identifiers else ():
        for found in re.finditer(longest_first, part):
            around = part[max(found.start() - 1, 0) : found.start()] + part[found.end() :][:1]
            # A plain word such as 'sks' may well be part of another one.
            if not re.search(r"\w", around):
                _require_read(pipeline, part, found)
            elif not re.fullmatch(r"\w+", found[0]):
                raise PromptError(
                    f"found {found[0]!r} glued to a word in {prompt!r}; expected spaces around "
                    f"it, for the model cannot read it so; write for example 'a {found[0]} cat'"
                )


def parts(pipeline: Pipeline, prompt: str) -> list[str]:
    """Cut a prompt between words into parts that every text encoder reads whole.

    One that fits stays as it is, to the letter. So does one for models without a U-Net.
    """
    if not UNetModel.knows(pipeline) or _fits(pipeline, prompt):
        return [prompt]
    found = [""]
    for word in prompt.split():
        longer = f"{found[-1]} {word}".strip()
        if _fits(pipeline, longer):
            found[-1] = longer
        else:
            found.append(word)
    return [part for part in found if part]


def told(model: Model, prompts: Sequence[str], unwanted: str, count: int) -> dict[str, Part]:
    """Give prompts as arguments of a pipeline: in words, or encoded if they have ``count`` parts.

    Missing parts are empty texts. The summary that XL adds is that of the first part.
    """
    if count == 1:
        named = {"prompt": [*prompts], "negative_prompt": [unwanted] * len(prompts)}
        return named if unwanted else {"prompt": [*prompts]}
    read = {}
    for prompt in {*prompts, unwanted}:
        said = parts(model.pipeline, prompt)
        heard = model.condition([*said, *[""] * (count - len(said))])
        read[prompt] = {"prompt_embeds": heard["encoder_hidden_states"].flatten(0, 1)}
        if "text_embeds" in heard:
            read[prompt]["pooled_prompt_embeds"] = heard["text_embeds"][0]
    found: dict[str, Part] = {}
    for name in read[unwanted]:
        found[name] = torch.stack([read[prompt][name] for prompt in prompts])
        found[f"negative_{name}"] = torch.stack([read[unwanted][name]] * len(prompts))
        if not unwanted and model.pipeline.config.get("force_zeros_for_empty_prompt"):
            found[f"negative_{name}"].zero_()  # as XL is drawn
    return found


def expanded(pipeline: Pipeline, prompt: str, tokenizer: Part) -> str:
    """Write out the words of several tokens that diffusers loaded, where a pipeline knows such."""
    expand = getattr(pipeline, "maybe_convert_prompt", None)
    return expand(prompt, tokenizer) if expand else prompt


def _fits(pipeline: Pipeline, prompt: str) -> bool:
    """Tell whether every text encoder reads all of a prompt."""
    return all(place <= limit for place, limit in _places(pipeline, prompt))


def _places(pipeline: Pipeline, prompt: str) -> list[tuple[int, int]]:
    """Give for every text encoder the place of the last token, and of the last that is read."""
    return [
        (
            len(tokenizer.tokenize(expanded(pipeline, prompt, tokenizer))),
            _length(pipeline, tokenizer, encoder) - tokenizer.num_special_tokens_to_add(),
        )
        for tokenizer, encoder in encoders(pipeline).values()
    ]


def _require_read(pipeline: Pipeline, prompt: str, found: re.Match[str]) -> None:
    """Refuse an identifier behind the last token that a text encoder reads."""
    for place, limit in _places(pipeline, prompt[: found.end()]):
        if place > limit:
            raise PromptError(
                f"found {found[0]!r} as token {place} of what is read at once; expected it among "
                f"the first {limit}; say it earlier, or put spaces between words"
            )


def _length(pipeline: Pipeline, tokenizer: Part, encoder: Part) -> int:
    """Say how many tokens of a prompt are read, special ones included."""
    if not reads(encoder):
        return tokenizer.model_max_length
    return inspect.signature(type(pipeline).__call__).parameters["max_sequence_length"].default
