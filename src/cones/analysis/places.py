"""Where concept neurons lie: by block of the U-Net, kind of projection, head and row.

A row of a projection is an output channel; attention heads share the rows out in order. A mask
does not hold the number of heads, so it has to be given, or guessed by :func:`likely_heads`.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Int64
from torch import Tensor

from cones.errors import MaskError
from cones.mask import Mask

KINDS = {"attn1": "self", "attn2": "cross", "to_k": "K", "to_v": "V"}
STAGES = ("down_blocks", "mid_block", "up_blocks")
# By width of the text states: the built-in model, Stable Diffusion 1; 2 and XL: rows of a head.
HEADS, HEAD_WIDTH = {384: 4, 768: 8}, {1024: 64, 2048: 64}


def block_of(name: str) -> str:
    """Name the block that a parameter is in, such as ``down 0`` or ``mid``."""
    stage, number = name.split(".")[:2] if "." in name else (name, "")
    return stage.replace("_blocks", f" {number}").removesuffix("_block")


def kind_of(name: str) -> str:
    """Name attention and projection, such as ``cross V``; ``other`` where the name tells none."""
    words = [KINDS[part] for part in name.split(".") if part in KINDS]
    return " ".join(words) if len(words) == 2 else "other"


def short(name: str) -> str:
    """Shorten a parameter's name to its block, numbers and kind: ``down 0.1.0 cross V``."""
    if kind_of(name) == "other":
        return name.removesuffix(".weight")
    numbers = ".".join(part for part in name.split(".") if part.isdigit())
    return f"{name.split('_block')[0]} {numbers} {kind_of(name)}"


def in_order(names: Iterable[str]) -> list[str]:
    """Sort parameters as a picture passes them: down, middle, up; otherwise as they come."""
    return sorted(names, key=lambda name: [*STAGES, name.split(".")[0]].index(name.split(".")[0]))


def in_heads(mask: Mask, name: str, *, heads: int) -> Int64[Tensor, " heads"]:
    """Count the neurons of one projection in every attention head; with a head a row, by row.

    Raises:
        MaskError: The mask has no such projection, or its rows cannot be dealt out to the heads.
    """
    shape = mask.shapes.get(name, ())
    if len(shape) != 2 or 0 in shape or heads < 1 or shape[0] % heads:
        found = f"found {name!r} of shape {shape} for {heads} heads"
        raise MaskError(f"{found}; expected a matrix whose rows they divide; see its config")
    return torch.bincount(mask.indices[name] // (math.prod(shape) // heads), minlength=heads)


def likely_heads(mask: Mask) -> dict[str, int]:
    """Guess the heads of every projection by the width of the text states, if it is known."""
    flat = {name: shape for name, shape in mask.shapes.items() if len(shape) == 2}
    text = max(
        (shape[1] for name, shape in flat.items() if kind_of(name)[:5] == "cross"), default=0
    )
    heads = {
        name: HEADS.get(text) or shape[0] // HEAD_WIDTH.get(text, shape[0] + 1)
        for name, shape in flat.items()
    }
    return {name: n for name, n in heads.items() if n and flat[name][0] % n == 0}
