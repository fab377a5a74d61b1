"""Where words look: cross-attention maps, with the concepts shut and without (Fig. 2).

Hooks on the query and key projections hear what every attention layer is given; the softmax is
taken beside the network. No processor is replaced and nothing is changed. Square pictures only.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from cones.concept import Concept
from cones.errors import ModelError, PromptError
from cones.models import Pipeline, UNetModel, model_for
from cones.models.applied import applied
from cones.models.prompts import parts
from cones.models.sampling import sample

HEAT = ((0, 0, 4), (252, 253, 191), (182, 54, 121))  # lowest, highest, and between
COVER = 0.65  # how much of an overlaid picture is heat


class Recording(dict[str, Tensor]):
    """Attention of every layer (images, places, words), added up over passes of the network."""

    def map(self, tokens: Sequence[int]) -> Float[Tensor, "images y x"]:
        """Average the attention to ``tokens`` over layers and passes; in [0, 1].

        As large as in the finest layer; coarser ones are scaled bilinearly.
        """
        # A pass shares out 1 among the words, so their sum is the number of passes.
        flat = [each[..., list(tokens)].mean(2) / each.sum(2) for each in self.values()]
        maps = [each.unflatten(1, (round(each.shape[1] ** 0.5), -1)) for each in flat]
        side = max(each.shape[-1] for each in maps)
        scaled = [F.interpolate(each[:, None], (side, side), mode="bilinear") for each in maps]
        return torch.stack(scaled).mean(0)[:, 0]


@contextmanager
def recorded(module: nn.Module, *, images: int) -> Iterator[Recording]:
    """Listen to every cross-attention layer of a U-Net until the block ends.

    Of the network's batch the last ``images`` are kept: under guidance these see the prompt.
    """
    recording = Recording()
    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, Attention) and layer.is_cross_attention:
                hooks.enter_context(_listening(name, layer, recording, images))
        yield recording


@contextmanager
def _listening(name: str, layer: Attention, heard: Recording, images: int) -> Iterator[None]:
    """Hook one layer: remember its queries, and when the keys come, take the softmax."""
    queries: list[Tensor] = []

    def took_query(_: nn.Module, __: tuple[Tensor, ...], query: Tensor) -> None:
        queries.append(query)

    def took_key(_: nn.Module, __: tuple[Tensor, ...], key: Tensor) -> None:
        last = [each.detach()[-images:].float() for each in (queries.pop(), key)]
        scores = layer.get_attention_scores(*map(layer.head_to_batch_dim, last))
        heard[name] = heard.get(name, 0) + scores.unflatten(0, (-1, layer.heads)).mean(1).cpu()

    to_q, to_k = layer.get_submodule("to_q"), layer.get_submodule("to_k")
    with to_q.register_forward_hook(took_query), to_k.register_forward_hook(took_key):
        yield


def token_positions(pipeline: Pipeline, prompt: str, word: str) -> tuple[int, ...]:
    """Find the tokens of ``word`` (or of several words) in a prompt, first occurrence.

    A word that is not said, or in two parts that are read apart, is a PromptError.
    """
    tokenizer = pipeline.tokenizer
    length = tokenizer.model_max_length
    wanted = pipeline.maybe_convert_prompt(word, tokenizer)
    sought = tokenizer(wanted, add_special_tokens=False).input_ids
    for k, part in enumerate(parts(pipeline, prompt)):
        text = pipeline.maybe_convert_prompt(part, tokenizer)
        said = tokenizer(text, truncation=True, max_length=length).input_ids
        for start in range(len(said) - len(sought) + 1):
            if sought and said[start : start + len(sought)] == sought:
                return tuple(range(k * length + start, k * length + start + len(sought)))
    raise PromptError(
        f"found no {word!r} in {prompt!r}; expected words of the prompt; change one of the two"
    )


def attend(
    pipeline: Pipeline,
    concepts: Sequence[Concept],
    prompt: str,
    words: Sequence[str],
    *,
    seed: int = 0,
    **drawing: Any,  # noqa: ANN401 - as sample() takes
) -> dict[str, list[Image.Image]]:
    """Draw a prompt untouched and with the concepts, from one noise, and show where words look.

    The pipeline is as before afterwards, bit for bit. ``words`` holds words of the prompt, or
    several in one string. ``drawing`` is as in :func:`cones.compare`.

    Returns:
        The rows ``untouched`` and ``shut`` of Fig. 2: the picture, and one overlay a word. Both
        know the identifiers; only the weights differ.
    """
    if not UNetModel.knows(pipeline):
        raise ModelError(
            f"found a {type(pipeline).__name__}; expected a model with a U-Net, as only there "
            "every place shares out its attention among the tokens of CLIP; choose another model"
        )
    rows = {}
    for row, strength in {"untouched": 0.0, "shut": 1.0}.items():
        with applied(pipeline, concepts, strengths=[strength] * len(concepts)):
            tokens = [token_positions(pipeline, prompt, word) for word in words]
            with recorded(model_for(pipeline).module, images=1) as heard:
                (image,) = sample(pipeline, [prompt], seeds=[seed], **drawing)
        rows[row] = [image, *(overlay(image, heard.map(at)[0]) for at in tokens)]
    return rows


def overlay(image: Image.Image, found: Float[Tensor, "y x"]) -> Image.Image:
    """Lay a map over a picture in grey, from dark to light yellow where the map is largest."""
    shares = (255 * found / found.max().clamp_min(1e-12)).byte().cpu().numpy()
    heat = Image.fromarray(shares).resize(image.size, Image.Resampling.BICUBIC)
    return Image.blend(image.convert("L").convert("RGB"), ImageOps.colorize(heat, *HEAT), COVER)
