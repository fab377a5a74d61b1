"""Where words look: cross-attention maps, with the concepts shut and without (Fig. 2).

Hooks on the query and key projections hear what every attention layer is given; the softmax is
taken beside the network. No processor is replaced and nothing is changed. Square pictures only.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cones.concept import Concept
from cones.errors import ModelError, PromptError
from cones.models import Pipeline, model_for
from cones.models.applied import applied
from cones.models.sampling import sample

Probabilities = Float[Tensor, "images heads places words"]
Map = Float[Tensor, "images y x"]


@dataclass
class Recording:
    """Attention of every layer, added up over passes of the network, and how many these were."""

    sums: dict[str, Probabilities] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)

    def map(
        self, tokens: Sequence[int], *, layers: Sequence[str] = (), heads: Sequence[int] = ()
    ) -> Map:
        """Average the attention to ``tokens`` over heads, layers and passes; in [0, 1].

        As large as in the finest layer; coarser ones are scaled bilinearly. ``layers`` holds
        parts of names, such as ``up_blocks.1``, and ``heads`` numbers from 0; none takes all.

        Raises:
            ModelError: Nothing was recorded, or no such layer.
        """
        chosen = [name for name in self.sums if any(part in name for part in layers or ("",))]
        if not chosen:
            known = ", ".join(self.sums) or "none, as nothing was drawn"
            raise ModelError(f"found no layer for {layers}; expected parts of {known}; choose one")
        means = [self.sums[name] / self.passes[name] for name in chosen]
        means = [each[:, list(heads)] if heads else each for each in means]
        flat = [each[..., list(tokens)].mean((1, 3)) for each in means]
        maps = [each.unflatten(1, (round(each.shape[1] ** 0.5), -1)) for each in flat]
        side = max(each.shape[-1] for each in maps)
        scaled = [F.interpolate(each[:, None], (side, side), mode="bilinear") for each in maps]
        return torch.stack(scaled).mean(0)[:, 0]


@contextmanager
def recorded(module: nn.Module, *, images: int) -> Iterator[Recording]:
    """Listen to every cross-attention layer of a U-Net until the block ends.

    Of the network's batch the last ``images`` are kept: under guidance these see the prompt.

    Raises:
        ModelError: There is no cross-attention to listen to. No hook is ever left behind.
    """
    parts = {n: part for n, part in module.named_modules() if isinstance(part, Attention)}
    found = {name: part for name, part in parts.items() if part.is_cross_attention}
    if not found or any("Fused" in type(part.processor).__name__ for part in found.values()):
        raise ModelError(
            f"found {len(found)} cross-attention layers, fused or none; expected some with to_q "
            "and to_k; call unfuse_qkv_projections()"
        )
    recording = Recording()
    with ExitStack() as hooks:
        for name, layer in found.items():
            _listen(name, layer, recording, images, hooks)
        yield recording


def _listen(name: str, layer: Attention, heard: Recording, images: int, hooks: ExitStack) -> None:
    """Hook one layer: remember its queries, and when the keys come, take the softmax."""
    queries: list[Tensor] = []

    def took_query(_: nn.Module, __: tuple[Tensor, ...], query: Tensor) -> None:
        queries.append(query.detach()[-images:])

    def took_key(_: nn.Module, __: tuple[Tensor, ...], key: Tensor) -> None:
        query, last = queries.pop(), key.detach()[-images:]
        found = attention(query, last, heads=layer.heads, scale=layer.scale).cpu()
        heard.sums[name] = heard.sums.get(name, 0) + found
        heard.passes[name] = heard.passes.get(name, 0) + 1

    hooks.callback(layer.get_submodule("to_q").register_forward_hook(took_query).remove)
    hooks.callback(layer.get_submodule("to_k").register_forward_hook(took_key).remove)


def attention(
    query: Float[Tensor, "images places width"],
    key: Float[Tensor, "images words width"],
    *,
    heads: int,
    scale: float,
) -> Probabilities:
    """Compute ``softmax(Q K^T * scale)`` head by head, in float32 (Sec. 2, attention)."""
    query, key = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key))
    return (query @ key.transpose(2, 3) * scale).softmax(-1)


def share_inside(found: Map, inside: Map) -> Float[Tensor, " images"]:
    """Give the share of a word's attention that falls inside a mask (1 inside, 0 outside)."""
    return (found * inside).sum((1, 2)) / found.sum((1, 2))


def token_positions(pipeline: Pipeline, prompt: str, word: str) -> tuple[int, ...]:
    """Find the tokens of ``word`` (or of several words) in a prompt, first occurrence.

    Raises:
        PromptError: The prompt does not say it within the length that the model reads.
    """
    tokenizer = pipeline.tokenizer
    said, sought = (pipeline.maybe_convert_prompt(text, tokenizer) for text in (prompt, word))
    said = tokenizer(said, truncation=True, max_length=tokenizer.model_max_length).input_ids
    sought = tokenizer(sought, add_special_tokens=False).input_ids
    for start in range(len(said) - len(sought) + 1):
        if sought and said[start : start + len(sought)] == sought:
            return tuple(range(start, start + len(sought)))
    read = f"the first {tokenizer.model_max_length} tokens of {prompt!r}"
    raise PromptError(f"found no {word!r} in {read}; expected it; shorten the prompt or change it")


@dataclass(frozen=True)
class Look:
    """One picture, and where the words of its prompt look (see :meth:`Recording.map`)."""

    image: Image.Image
    maps: dict[str, Float[Tensor, "y x"]]


def attend(
    pipeline: Pipeline,
    concepts: Sequence[Concept],
    prompt: str,
    words: Sequence[str] = (),
    *,
    strengths: Sequence[float] | None = None,
    seed: int = 0,
    **drawing: Any,  # noqa: ANN401 - as sample() takes
) -> dict[str, Look]:
    """Draw a prompt untouched and with the concepts, from one noise, and listen (Fig. 2).

    The pipeline is as before afterwards, bit for bit. ``words`` holds words of the prompt, or
    several in one string; none takes all. ``drawing`` is as in :func:`cones.compare`.

    Returns:
        ``untouched`` and ``shut``. Both know the identifiers; only the weights differ.

    Raises:
        PromptError: There is no concept, or the prompt does not say a word.
    """
    if not concepts:
        raise PromptError("found no concept; expected one or more; name a concept file")
    found = {}
    for row, each in {"untouched": [0.0] * len(concepts), "shut": strengths}.items():
        with applied(pipeline, concepts, strengths=each):
            asked = words or prompt.split()
            tokens = {word: token_positions(pipeline, prompt, word) for word in asked}
            with recorded(model_for(pipeline).module, images=1) as heard:
                (image,) = sample(pipeline, [prompt], seeds=[seed], **drawing)
        found[row] = Look(image, {word: heard.map(at)[0] for word, at in tokens.items()})
    return found
