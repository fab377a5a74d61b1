"""Gather what an atlas shows of some concepts: plain figures, no model.

Concepts may have searched different layers (cross- or self-attention), but a layer that two of
them searched must have one shape. Two concepts are compared on the layers that both searched.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cones.atlas.places import EXACT, placed
from cones.concept import Concept
from cones.errors import MaskError
from cones.layout import block_of, by_block, by_column, by_head, by_row, in_order
from cones.mask import ConceptMask
from cones.stats import kind_of, multiplicity, overlap, overlap_per_site

MOST = 8  # concepts on a page: as many colours can be told apart
BARS = 96  # of a histogram over rows or columns
SIDES = ("untouched", "random", "shut")
LOSSES = ("subject", "prior", "loss")
# The number of heads is not in a concept file; the width of the text tells the family.
HEADS = {192: 3, 768: 8}  # the built-in model, Stable Diffusion 1.x
HEAD_WIDTH = {1024: 64, 2048: 64}  # Stable Diffusion 2.x and XL


@dataclass(frozen=True, eq=False)
class Entry:
    """A concept and the file that it is from.

    Attributes:
        concept: What it holds.
        file: Its name, for people.
        size: In bytes.
    """

    concept: Concept
    file: str
    size: int


def gathered(
    entries: Sequence[Entry], *, heads: int | None = None, exact: int = EXACT
) -> dict[str, Any]:
    """Gather the figures of an atlas.

    Args:
        entries: One to eight concepts of one base model.
        heads: Number of attention heads of every layer; None goes by the width of the text,
            and leaves heads out where that is no known family's.
        exact: Embed every position as long as there are no more than these; above, coarse
            pictures of every layer.

    Raises:
        MaskError: There are too many concepts, they have layers of different shapes, or the
            heads do not divide a layer.
    """
    masks = [entry.concept.mask for entry in entries]
    shapes = _shapes(masks)
    names = in_order(shapes)
    count = {name: _heads(name, shapes, heads) for name in names}
    return {
        "concepts": [_card(entry) for entry in entries],
        "sites": [
            {
                "name": name,
                "short": short(name),
                "block": block_of(name),
                "attention": kind_of(name)[0],
                "role": kind_of(name)[1],
                "shape": list(shapes[name]),
                "heads": count[name],
            }
            for name in names
        ],
        "counts": [[_count(mask, name) for name in names] for mask in masks],
        "blocks": [by_block(mask) for mask in masks],
        "heads": [
            [
                by_head(mask, n, heads=count[n]) if count[n] and n in mask.shapes else None
                for n in names
            ]
            for mask in masks
        ],
        "rows": [[_bars(by_row, mask, name) for name in names] for mask in masks],
        "columns": [[_bars(by_column, mask, name) for name in names] for mask in masks],
        "pairs": _pairs(masks, names),
        "several": _several(masks),
        "places": placed(masks, shapes, names, exact=exact),
    }


def _shapes(masks: Sequence[ConceptMask]) -> dict[str, tuple[int, ...]]:
    if not 1 <= len(masks) <= MOST:
        raise MaskError(
            f"found {len(masks)} concepts, expected 1 to {MOST} on one page; choose fewer"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for mask in masks:
        for name, shape in mask.shapes.items():
            if shapes.setdefault(name, shape) != shape:
                raise MaskError(
                    f"{name!r} is {shapes[name]} in one concept and {shape} in another; expected "
                    "concepts of one base model; make an atlas of each model"
                )
    return shapes


def _card(entry: Entry) -> dict[str, Any]:
    concept = entry.concept
    certificate = concept.certificate
    return {
        "words": [[member.identifier, member.noun] for member in concept.members],
        "file": entry.file,
        "bytes": entry.size,
        "base": concept.base.model,
        "neurons": len(concept.mask),
        "searched": concept.mask.total,
        "density": concept.mask.density,
        "digest": concept.mask.digest,
        "settings": dict(concept.settings),
        "losses": {side: _losses(certificate.get(side)) for side in SIDES},
        "error": _number(certificate.get("standard_error")),
        "samples": _number(certificate.get("held_out_samples")),
        "curve": _curve(certificate.get("curve")),
    }


def _losses(found: Any) -> dict[str, float | None] | None:
    """Read losses off a certificate, which is whatever its file says."""
    if not isinstance(found, Mapping):
        return None
    return {name: _number(found.get(name)) for name in LOSSES}


def _curve(found: Any) -> list[dict[str, float | None]]:
    rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    return [{name: _number(row.get(name)) for name in ("density", *LOSSES)} for row in rows]


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and math.isfinite(value) else None


def _heads(name: str, shapes: Mapping[str, tuple[int, ...]], asked: int | None) -> int | None:
    """Give the number of heads of a layer, None where it is not known."""
    shape = shapes[name]
    if len(shape) != 2 or asked is not None:
        return asked if len(shape) == 2 else None
    text = {s[1] for n, s in shapes.items() if kind_of(n)[0] == "cross" and len(s) == 2}
    width = text.pop() if len(text) == 1 else 0
    heads = HEADS.get(width) or shape[0] // HEAD_WIDTH.get(width, shape[0] + 1)
    return heads if heads and shape[0] % heads == 0 else None


def _count(mask: ConceptMask, name: str) -> int | None:
    """Count the neurons of a layer, None where it was not searched."""
    return len(mask.indices[name]) if name in mask.shapes else None


def _bars(counted: Any, mask: ConceptMask, name: str) -> list[float] | None:
    """Give neurons per row or column, mean over neighbours where there are many."""
    if len(mask.shapes.get(name, ())) != 2 or 0 in mask.shapes[name]:
        return None
    counts = counted(mask, name)
    wide = math.ceil(len(counts) / BARS)
    parts = [counts[k : k + wide] for k in range(0, len(counts), wide)]
    return [round(sum(part) / len(part), 3) for part in parts]


def _pairs(masks: Sequence[ConceptMask], names: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for j in range(len(masks)):
        for i in range(j):
            both = [n for n in names if n in masks[i].shapes and n in masks[j].shapes]
            a, b = (masks[k].restricted(both) for k in (i, j))
            sites = overlap_per_site(a, b)
            rows = [sites.get(n) for n in names]
            found.append({"concepts": [i, j], "all": overlap(a, b), "sites": rows})
    return found


def _several(masks: Sequence[ConceptMask]) -> list[dict[str, float]]:
    """Count what many hold, on the layers that all searched."""
    common = set.intersection(*(set(mask.shapes) for mask in masks))
    return multiplicity([mask.restricted(sorted(common)) for mask in masks])


def short(name: str) -> str:
    """Shorten ``down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k.weight``.

    That is ``down 0.1 self K``; a further transformer block is counted: ``down 0.1.2 self K``.
    """
    attention, role = kind_of(name)
    if "other" in (attention, role):
        return name.removesuffix(".weight")
    numbers = [part for part in name.split(".") if part.isdigit()]
    place = ".".join(numbers[:-1] if numbers[-1:] == ["0"] and len(numbers) > 1 else numbers)
    block = name.split("_block")[0].split(".")[0]
    return " ".join(word for word in (block, place, attention, role) if word)
