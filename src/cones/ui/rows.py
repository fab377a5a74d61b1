"""Rows of pictures: one order drawn with one setting of the weights, and where its words look.

The pictures of a row are those of :func:`cones.generate.sample`; recording attention beside them
does not change them.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.attention import record_attention
from cones.concept import Concept
from cones.generate import sample
from cones.intervention import Intervention
from cones.mask import ConceptMask
from cones.plot import overlay, png_bytes
from cones.ui.order import Order

TOGETHER = 4  # pictures in one batch


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures of one order with one setting of the weights.

    Attributes:
        images: One per seed.
        settings: How they were made, as each picture's PNG says.
        maps: Where every token of the prompt looks, or None where that was not recorded.
    """

    images: list[Image.Image]
    settings: dict[str, Any]
    maps: Float[Tensor, "images tokens y x"] | None

    def png(self, number: int) -> bytes:
        """Lay out a picture as a PNG that carries its settings."""
        return png_bytes(self.images[number], self._settings(number))

    def lit(self, number: int, tokens: Sequence[int], word: str) -> bytes:
        """Lay out a picture lit by where tokens look, averaged over heads, layers and steps."""
        found = self.maps[number, list(tokens)].mean(0)
        lit = overlay(self.images[number], found.tolist())
        return png_bytes(lit, {**self._settings(number), "word": word})

    def _settings(self, number: int) -> dict[str, Any]:
        return {**self.settings, "seed": self.settings["seed"] + number}


def draw_row(
    pipeline: Any,
    order: Order,
    layers: Sequence[Intervention],
    *,
    settings: dict[str, Any],
    on_step: Callable[[], None],
) -> Row:
    """Draw the pictures of an order with interventions in force, a few at a time.

    Args:
        pipeline: Text-to-image pipeline; its weights are as before afterwards, bit for bit.
        order: What to draw; its choices are not looked at.
        layers: What lies on the weights meanwhile; none is the untouched model.
        settings: To be written into the pictures besides the order's own.
        on_step: Called before every step of the sampler; what it raises ends the drawing.
    """
    images: list[Image.Image] = []
    maps = []
    tokens = len(pipeline.tokenizer(order.prompt, truncation=True).input_ids)
    with ExitStack() as stack:
        hook = pipeline.unet.register_forward_pre_hook(lambda *_: on_step())
        stack.callback(hook.remove)
        for layer in layers:
            stack.enter_context(layer.applied(pipeline.unet))
        for start in range(0, order.count, TOGETHER):
            seeds = range(order.seed + start, order.seed + min(start + TOGETHER, order.count))
            with _recording(pipeline, order, len(seeds)) as recording:
                images += sample(
                    pipeline,
                    [order.prompt] * len(seeds),
                    seeds=seeds,
                    steps=order.steps,
                    guidance=order.guidance,
                )
            if recording is not None:
                maps.append(torch.stack([recording.map([t]) for t in range(tokens)], 1))
    made = {name: getattr(order, name) for name in ("prompt", "seed", "steps", "guidance")}
    return Row(images, {**made, **settings}, torch.cat(maps) if maps else None)


def batches(order: Order) -> int:
    """Count the runs of the sampler that a row takes."""
    return -(-order.count // TOGETHER)


def _recording(pipeline: Any, order: Order, images: int) -> Any:
    if not order.attention:
        return nullcontext()
    return record_attention(pipeline.unet, images=images)


def weighed(concepts: Sequence[Concept], strengths: Sequence[float]) -> list[Intervention]:
    """Give each neuron to the strongest concept that holds it, one intervention per strength.

    With equal strengths this is shutting the union of the masks (Sec. 3.2), as
    :func:`cones.generate.generate` does. No two of the results hold the same neuron.
    """
    shapes = {n: shape for concept in concepts for n, shape in concept.mask.shapes.items()}
    masks: dict[float, ConceptMask] = {}
    for concept, strength in zip(concepts, strengths, strict=True):
        wide = concept.mask.widened(shapes)
        masks[strength] = masks[strength] | wide if strength in masks else wide
    layers, taken = [], None
    for strength in sorted(masks, reverse=True):
        mask = masks[strength]
        layers.append(Intervention(mask if taken is None else mask - taken, strength=strength))
        taken = mask if taken is None else taken | mask
    return layers
