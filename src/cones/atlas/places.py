"""Positions of concept neurons, packed for a web page.

Up to a few million of them travel exactly, as gaps of about a byte each: the gap to the previous
neuron (to -1 for the first), less one, in base 255, where the byte 255 says "255 further, no
neuron yet". Above that the page would grow too large, and every layer travels as a coarse picture
that counts neurons in squares.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cones.layout import who_holds
from cones.mask import ConceptMask

EXACT = 3_000_000  # positions on a page, about 4 MB of text
SIDE = 48  # squares along the longer side of a coarse picture
SKIP = 255


def placed(
    masks: Sequence[ConceptMask],
    shapes: Mapping[str, tuple[int, ...]],
    names: Sequence[str],
    *,
    exact: int = EXACT,
) -> dict[str, Any]:
    """Pack the positions of all masks.

    Returns:
        ``kind``: ``gaps``, or ``squares`` where there are more than ``exact`` positions.
        ``layers``, one for every name. With gaps: a text in base 64 for every mask, None where
        it did not search the layer. With squares: their side in weights, and for every mask, and
        last for what several hold, a byte a square: its share of neurons in 255ths of ``full``.
        A layer that is no matrix is None.
    """
    if sum(len(mask) for mask in masks) <= exact:
        flat = {name for name in names if _is_matrix(shapes[name])}
        layers = [[_gaps(m, n) for m in masks] if n in flat else None for n in names]
        return {"kind": "gaps", "layers": layers}
    return {"kind": "squares", "layers": [_squares(masks, shapes, name) for name in names]}


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and 0 not in shape


def gaps(positions: np.ndarray) -> bytes:
    """Pack strictly increasing positions."""
    whole, rest = np.divmod(np.diff(positions, prepend=-1) - 1, SKIP)
    packed = np.full(len(positions) + int(whole.sum()), SKIP, dtype=np.uint8)
    packed[np.cumsum(whole + 1) - 1] = rest
    return packed.tobytes()


def _gaps(mask: ConceptMask, name: str) -> str | None:
    if name not in mask.shapes:
        return None
    return base64.b64encode(gaps(mask.indices[name].numpy())).decode()


def _squares(
    masks: Sequence[ConceptMask], shapes: Mapping[str, tuple[int, ...]], name: str
) -> dict[str, Any] | None:
    """Count neurons in squares, mask by mask, and those that several hold."""
    if not _is_matrix(shapes[name]):
        return None
    wide = {name: shapes[name]}
    filled = [
        ConceptMask(wide, {name: mask.indices[name]})
        if name in mask.shapes
        else ConceptMask.empty(wide)
        for mask in masks
    ]
    square = -(-max(shapes[name]) // SIDE)
    shared = (who_holds(filled, name) == len(masks) + 1).numpy()
    pictures = [mask.hits()[name].numpy() for mask in filled]
    shares = [share(picture, square) for picture in (*pictures, shared)]
    full = max(float(max(each.max() for each in shares)), 1e-9)
    texts = [base64.b64encode(np.uint8(np.round(255 * s / full)).tobytes()) for s in shares]
    return {"square": square, "full": full, "shares": [text.decode() for text in texts]}


def share(hits: np.ndarray, square: int) -> np.ndarray:
    """Give the share of True entries in every square; those at the edge may be smaller."""
    starts = [np.arange(0, n, square) for n in hits.shape]
    summed = np.add.reduceat(np.add.reduceat(hits.astype(np.int64), starts[0], 0), starts[1], 1)
    area = np.add.reduceat(np.ones(hits.shape[0]), starts[0])[:, None]
    return summed / (area * np.add.reduceat(np.ones(hits.shape[1]), starts[1]))
