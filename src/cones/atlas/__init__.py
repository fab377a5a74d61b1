"""An atlas of concepts: one HTML page that shows where they lie and what they share (Fig. 4).

The page holds everything it needs and runs no script; its policy forbids scripts and the network.
A concept file comes from anyone, so the template escapes every word. Its figures are those of
:mod:`cones.analysis`, which it calls itself.
"""

import base64
import io
from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from PIL import Image, ImageColor

from cones.analysis.overlap import by_block, overlap
from cones.concept import Concept
from cones.errors import MaskError
from cones.mask import NONE, Mask

COLOURS = ("#1971c2", "#e8590c", "#2f9e44", "#9c36b5", "#0c8599", "#d6336c", "#b08900", "#66a80f")
INK = "#1d1d1f"
SIDE = 320  # at most so many points along a picture


def page(concepts: Sequence[Concept], names: Sequence[str]) -> str:
    """Write the page of one to eight concepts of one model; ``names`` are those of their files."""
    count, most = len(concepts), len(COLOURS)
    if not 1 <= count <= most:
        raise MaskError(f"found {count} concepts; expected 1 to {most} on a page; choose fewer")
    cards = [
        {"concept": concept, "mask": concept.mask, "file": name, "colour": colour}
        for concept, name, colour in zip(concepts, names, COLOURS[:count], strict=True)
    ]
    masks = [concept.mask for concept in concepts]
    shapes = reduce(Mask.__or__, masks).shapes
    layers = {
        name: (shapes[name], picture(masks, shapes[name], name))
        for name in sorted(shapes)  # which is down, middle, up
        if len(shapes[name]) == 2 and 0 not in shapes[name]
    }
    found = {"cards": cards, "pairs": [*combinations(cards, 2)], "layers": layers, "ink": INK}
    templates = Environment(loader=PackageLoader("cones.atlas"), autoescape=True)
    return templates.get_template("atlas.html").render(found, overlap=overlap, by_block=by_block)


def picture(masks: Sequence[Mask], shape: tuple[int, ...], name: str) -> str:
    """Colour the weights of a projection by who holds them, as an address of PNG data.

    A weight is a point, in its concept's colour, or in ink where several concepts hold it. Large
    projections are shown in squares of several weights.
    """
    held = [mask.indices.get(name, NONE) for mask in masks]
    places, times = torch.cat(held).unique(return_counts=True)
    several = places[times > 1]
    alone = [each[~torch.isin(each, several)] for each in held]
    square = -(-max(shape) // SIDE)
    high, wide = (-(-side // square) for side in shape)
    squares = [p // shape[1] // square * wide + p % shape[1] // square for p in (*alone, several)]
    counts = torch.stack([torch.bincount(each, minlength=high * wide) for each in squares]).numpy()
    inks = np.array([ImageColor.getrgb(each) for each in (*COLOURS[: len(masks)], INK)])
    total = counts.sum(0)[:, None]
    mixed = counts.T @ inks / np.maximum(total, 1)
    cover = 255 * np.sqrt(total / max(total.max(), 1))
    pixels = np.concatenate([mixed, cover], 1).round().astype(np.uint8).reshape(high, wide, 4)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
