"""Record where words look: cross-attention maps, before and after shutting (Fig. 2).

Hooks on the query and key projections hear what every attention layer is given; the softmax is
taken beside the network. No processor is replaced, nothing is changed, and without a recording
there is no hook and no cost. A map is a probability over *words* at every place of the picture.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cones.concept import Concept
from cones.errors import BackboneError, SearchError
from cones.generate import edit, sample


@dataclass
class Recording:
    """Attention of every layer, mean over the recorded steps of sampling.

    Attributes:
        sums: By layer, added up over steps.
        counts: By layer, steps heard; those not recorded count as well.
        steps: Which steps of sampling to record, from 0; None records all.
        recorded: By layer, steps added up.
    """

    steps: Collection[int] | None = None
    sums: dict[str, Float[Tensor, "images heads places words"]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    recorded: dict[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """Name the recorded layers, in the order of the network."""
        return tuple(self.sums)

    def of(self, layer: str) -> Float[Tensor, "images heads places words"]:
        """Give the attention of one layer, mean over steps; sums to 1 over the words."""
        return self.sums[layer] / self.recorded[layer]

    def map(
        self,
        tokens: Sequence[int],
        *,
        side: int | None = None,
        layers: Collection[str] | None = None,
        heads: Collection[int] | None = None,
    ) -> Float[Tensor, "images y x"]:
        """Average the attention to a word over its tokens, heads and layers.

        Args:
            tokens: Positions of the word's tokens, see :func:`token_positions`.
            side: Of the map; by default that of the finest layer. Others are scaled bilinearly.
            layers: Some of :attr:`layers`; None takes all.
            heads: Numbers of heads; None takes all.

        Raises:
            SearchError: Nothing was recorded, or there is no such layer.
        """
        chosen = self.layers if layers is None else tuple(layers)
        unknown = [layer for layer in chosen if layer not in self.sums]
        if not chosen or unknown:
            raise SearchError(
                f"found layers {unknown or 'none'}; expected some of {', '.join(self.layers)}; "
                "record while pictures are drawn"
            )
        grids = [self._grid(layer, tokens, heads) for layer in chosen]
        side = side or max(grid.shape[-1] for grid in grids)
        scaled = [F.interpolate(grid[:, None], (side, side), mode="bilinear") for grid in grids]
        return torch.stack([grid[:, 0] for grid in scaled]).mean(0)

    def _grid(
        self, layer: str, tokens: Sequence[int], heads: Collection[int] | None
    ) -> Float[Tensor, "images y x"]:
        found = self.of(layer)
        if heads is not None:
            found = found[:, list(heads)]
        side = int(found.shape[2] ** 0.5)  # pictures are square here
        return found[..., list(tokens)].mean((1, 3)).unflatten(1, (side, -1))


@contextmanager
def record_attention(
    module: nn.Module, *, images: int, steps: Collection[int] | None = None
) -> Iterator[Recording]:
    """Listen to every cross-attention layer of a U-Net until the block ends.

    Args:
        module: The U-Net, with separate query and key projections.
        images: Pictures drawn at once. Of the network's batch the last so many are kept: under
            guidance these are the halves that see the prompt.
        steps: Steps of sampling to record, from 0; None records all.

    Raises:
        BackboneError: There is no cross-attention to listen to. No hook is left behind, then or
            after any error.
    """
    found = {name: part for name, part in module.named_modules() if name.endswith("attn2")}
    if not found or any(getattr(part, "fused_projections", False) for part in found.values()):
        raise BackboneError(
            f"found {len(found)} cross-attention layers, fused or none; expected layers named "
            "attn2 with to_q and to_k; call unfuse_qkv_projections() first"
        )
    recording = Recording(steps)
    with ExitStack() as hooks:
        for name, layer in found.items():
            for handle in _listen(name, layer, recording, images):
                hooks.callback(handle.remove)
        yield recording


def _listen(name: str, layer: nn.Module, recording: Recording, images: int) -> list[Any]:
    """Hook one layer: remember its queries, and when the keys come, take the softmax."""
    queries: list[Tensor] = []

    def took_query(_: nn.Module, __: Any, query: Tensor) -> None:
        queries.append(query.detach())

    def took_key(_: nn.Module, __: Any, key: Tensor) -> None:
        step = recording.counts.get(name, 0)
        recording.counts[name] = step + 1
        query = queries.pop()
        if recording.steps is not None and step not in recording.steps:
            return
        found = attention(query[-images:], key.detach()[-images:], layer.heads, layer.scale)
        recording.sums[name] = recording.sums.get(name, 0) + found.cpu()
        recording.recorded[name] = recording.recorded.get(name, 0) + 1

    return [
        layer.to_q.register_forward_hook(took_query),
        layer.to_k.register_forward_hook(took_key),
    ]


def attention(
    query: Float[Tensor, "images places width"],
    key: Float[Tensor, "images words width"],
    heads: int,
    scale: float,
) -> Float[Tensor, "images heads places words"]:
    """Compute ``softmax(Q K^T * scale)`` head by head, in float32 (Sec. 2, attention)."""
    query, key = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key))
    return (query @ key.transpose(2, 3) * scale).softmax(-1)


def token_positions(tokenizer: Any, prompt: str, word: str) -> tuple[int, ...]:
    """Find the tokens of ``word`` (or of several words) in a prompt, first occurrence.

    Raises:
        SearchError: The prompt does not say it within the length that the model reads.
    """
    said = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    sought = tokenizer(word, add_special_tokens=False).input_ids
    for start in range(len(said) - len(sought) + 1):
        if sought and said[start : start + len(sought)] == sought:
            return tuple(range(start, start + len(sought)))
    raise SearchError(
        f"found no {word!r} among the first {tokenizer.model_max_length} tokens of {prompt!r}; "
        "expected a word of the prompt; shorten the prompt or choose another word"
    )


def share_inside(
    found: Float[Tensor, "images y x"],
    inside: Bool[Tensor, "images y x"] | Float[Tensor, "images y x"],
) -> Float[Tensor, " images"]:
    """Give the share of a word's attention that falls on the places marked, in [0, 1].

    Args:
        found: Attention to the word.
        inside: How much of every place is meant, 0 to 1. Attention that is equal everywhere has
            the mean of this as its share.
    """
    return (found * inside).sum((1, 2)) / found.sum((1, 2))


def told_apart(
    found: Float[Tensor, "images y x"],
    inside: Bool[Tensor, "images y x"] | Float[Tensor, "images y x"],
) -> Float[Tensor, " images"]:
    """Give the chance that a place marked draws more attention than one that is not, in [0, 1].

    This is the area under the ROC curve: 0.5 is blind, 1 a perfect outline, however faint. Ties
    count half, and a place marked in part counts on both sides, so that 1 is out of reach there.
    """
    values, meant = found.flatten(1), inside.flatten(1).to(found)
    above = (values[:, :, None] > values[:, None]).to(found)
    above = above + (values[:, :, None] == values[:, None]) / 2
    pairs = meant[:, :, None] * (1 - meant)[:, None]
    return (above * pairs).sum((1, 2)) / pairs.sum((1, 2))


@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures of one prompt and where its words look."""

    images: list[Image.Image]
    recording: Recording


def before_and_after(
    pipeline: Any,
    concepts: Sequence[Concept],
    prompt: str,
    *,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 7.5,
    recorded: Collection[int] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, count: None,
) -> tuple[Seen, Seen]:
    """Draw a prompt with the untouched model and with the concepts, from the same noise.

    Args:
        pipeline: Text-to-image pipeline; its weights are as before afterwards, bit for bit.
        concepts: Concepts to join, at least one.
        prompt: With the concepts' identifiers in it.
        seed: Of the noise.
        steps: Steps of the pipeline's sampler.
        guidance: Scale of classifier-free guidance.
        recorded: Steps to record; None records all.
        on_progress: Called with pictures done and their number.

    Returns:
        What the untouched model and what the changed one drew and looked at.
    """
    edited = edit(pipeline, concepts)
    if edited is None:
        raise SearchError("found no concept; expected one or more; name a file with -c")

    def drawn(number: int) -> Seen:
        with record_attention(pipeline.unet, images=1, steps=recorded) as recording:
            images = sample(pipeline, [prompt], seeds=[seed], steps=steps, guidance=guidance)
        on_progress(number, 2)
        return Seen(images, recording)

    before = drawn(1)
    with edited.applied(pipeline.unet):
        return before, drawn(2)
