"""Figures and small pictures of an atlas, in the order of the page.

Every weight of a projection is a point of its picture: in its concept's colour, or in ink where
several concepts hold it. Large projections are shown in squares of several weights.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations

import numpy as np
import torch
from PIL import Image, ImageColor

from cones.analysis.overlap import by_block, overlap
from cones.analysis.places import in_heads, in_order, likely_heads, short
from cones.concept import Concept
from cones.errors import MaskError
from cones.mask import Mask

COLOURS = ("#1971c2", "#e8590c", "#2f9e44", "#9c36b5", "#0c8599", "#d6336c", "#b08900", "#66a80f")
INK = "#1d1d1f"
SIDE, BARS = 320, 96  # at most so many points along a picture, bars along a margin


def gather(
    concepts: Sequence[Concept], names: Sequence[str], heads: Mapping[str, int] | None
) -> dict[str, object]:
    """Gather what :func:`cones.atlas.page` shows."""
    count, most = len(concepts), len(COLOURS)
    if not 1 <= count <= most:
        raise MaskError(f"found {count} concepts; expected 1 to {most} on a page; choose fewer")
    masks = [concept.mask for concept in concepts]
    union = reduce(Mask.__or__, masks)
    layers = [n for n in in_order(union) if len(union.shapes[n]) == 2 and 0 not in union.shapes[n]]
    heads = likely_heads(union) if heads is None else heads
    cards = [
        {
            "concept": concept,
            "colour": colour,
            "file": names[k] if names else "",
            "blocks": {key: row.first / (row.weights or 1) for key, row in by_block(m, m).items()},
            "heads": _heads(m, layers, heads),
        }
        for k, (concept, m, colour) in enumerate(zip(concepts, masks, COLOURS, strict=False))
    ]
    pairs = [
        {"cards": (cards[i], cards[j]), "all": overlap(a, b), "blocks": by_block(a, b)}
        for (i, a), (j, b) in combinations(enumerate(masks), 2)
    ]
    shown = [_layer(masks, name, union.shapes[name], heads.get(name)) for name in layers]
    return {"cards": cards, "pairs": pairs, "layers": shown, "ink": INK}


def _heads(mask: Mask, layers: Sequence[str], heads: Mapping[str, int]) -> dict[str, list[float]]:
    """Give the density of every head, keys and values of one attention layer together."""
    counts, weights = {}, {}
    for name in [name for name in layers if name in mask.shapes and name in heads]:
        layer = short(name).rsplit(" ", 1)[0]
        counts[layer] = counts.get(layer, 0) + in_heads(mask, name, heads=heads[name])
        weights[layer] = weights.get(layer, 0) + math.prod(mask.shapes[name]) / heads[name]
    return {layer: (count / weights[layer]).tolist() for layer, count in counts.items()}


def _layer(
    masks: Sequence[Mask], name: str, shape: tuple[int, ...], heads: int | None
) -> dict[str, object]:
    """Show one projection: who holds which weight, and neurons by row."""
    own = {k: mask for k, mask in enumerate(masks) if name in mask.shapes}
    rows = {k: in_heads(mask, name, heads=shape[0]).numpy() for k, mask in own.items()}
    top = max(int(each.max()) for each in rows.values())
    return {
        "name": name,
        "short": short(name),
        "shape": shape,
        "heads": heads,
        "counts": {k: int(each.sum()) for k, each in rows.items()},
        "picture": _picture(masks, name, shape),
        "margins": {k: _margin(each, top) for k, each in rows.items()},
    }


def _margin(rows: np.ndarray, top: int) -> str:
    """Give the corners of a step curve in a 100 x 100 box, from top to bottom."""
    bars = [100 * part.mean() / max(top, 1) for part in np.array_split(rows, min(BARS, len(rows)))]
    step = 100 / len(bars)
    steps = [f"{bar:.1f},{y * step:.1f}" for k, bar in enumerate(bars) for y in (k, k + 1)]
    return " ".join(["0,0", *steps, "0,100"])


def _picture(masks: Sequence[Mask], name: str, shape: tuple[int, ...]) -> str:
    """Colour every square of weights by who holds them, as an address of PNG data."""
    nobody = torch.empty(0, dtype=torch.int64)
    held = [mask.indices.get(name, nobody) for mask in masks]
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
