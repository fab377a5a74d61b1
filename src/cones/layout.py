"""Where in a layer concept neurons lie: by block, by head, by row and column, who holds which.

A projection's rows are its output channels, which the attention heads share out in order; its
columns are the input channels. As in :mod:`cones.stats` a mask is enough; the number of heads is
not in it and has to be given.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cones.errors import MaskError
from cones.mask import ConceptMask
from cones.stats import ORDER, kind_of, same_sites, tabulated, times_held

BLOCKS = ("down_blocks", "mid_block", "up_blocks")


def by_block(mask: ConceptMask) -> list[dict[str, str | int | float]]:
    """Tabulate neurons by block of the U-Net, attention and role.

    Returns:
        Rows as of :func:`cones.stats.by_kind`, with ``block``, from the network's entry to its
        exit.
    """
    rows = tabulated(mask, lambda name: (block_of(name), *kind_of(name)))
    blocks = list(dict.fromkeys(block_of(name) for name in in_order(mask)))
    rows.sort(key=lambda row: (blocks.index(row[0][0]), *(ORDER[word] for word in row[0][1:])))
    return [{"block": key[0], "attention": key[1], "role": key[2], **count} for key, count in rows]


def by_head(mask: ConceptMask, name: str, *, heads: int) -> list[int]:
    """Count the neurons of one projection in every attention head.

    Args:
        mask: Any.
        name: Of a parameter of shape (output channels, input channels).
        heads: Number of heads of that layer.

    Raises:
        MaskError: There is no such parameter, or its rows cannot be dealt out to the heads.
    """
    rows = by_row(mask, name)
    if heads < 1 or len(rows) % heads:
        raise MaskError(
            f"found {len(rows)} rows in {name!r} for {heads} heads; expected a number of heads "
            "that divides the rows; give the number that the model's configuration says"
        )
    return np.reshape(rows, (heads, -1)).sum(1).tolist()


def by_row(mask: ConceptMask, name: str) -> list[int]:
    """Count the neurons in every row (output channel) of a projection.

    Raises:
        MaskError: There is no such parameter, or it is no matrix.
    """
    columns = _matrix(mask, name)[1]
    return torch.bincount(mask.indices[name] // columns, minlength=mask.shapes[name][0]).tolist()


def by_column(mask: ConceptMask, name: str) -> list[int]:
    """Count the neurons in every column (input channel) of a projection.

    Raises:
        MaskError: There is no such parameter, or it is no matrix.
    """
    columns = _matrix(mask, name)[1]
    return torch.bincount(mask.indices[name] % columns, minlength=columns).tolist()


def _matrix(mask: ConceptMask, name: str) -> tuple[int, int]:
    _require_site(mask, name)
    shape = mask.shapes[name]
    if len(shape) != 2 or not shape[1]:
        raise MaskError(
            f"{name!r} has shape {shape}, expected rows and columns; choose a projection"
        )
    return shape[0], shape[1]


def _require_site(mask: ConceptMask, name: str) -> None:
    if name not in mask.shapes:
        raise MaskError(
            f"{name!r} was not searched; expected one of {len(mask.shapes)} such as "
            f"{next(iter(mask), 'none')!r}; choose among the mask's names"
        )


def who_holds(masks: Sequence[ConceptMask], name: str) -> Int64[Tensor, "..."]:
    """Say for every weight of one parameter which concept holds it (Fig. 4a as a picture).

    Returns:
        In the parameter's shape: 0 nobody, 1 ... n the concept of that place in ``masks``,
        n + 1 several.

    Raises:
        MaskError: There is no such parameter or mask, or they are of different models.
    """
    _require_site(same_sites(masks), name)
    picture = torch.zeros(math.prod(masks[0].shapes[name]), dtype=torch.int64)
    for number, mask in enumerate(masks, 1):
        picture[mask.indices[name]] = number
    picture[times_held(masks, name) > 1] = len(masks) + 1
    return picture.view(masks[0].shapes[name])


def in_order(names: Iterable[str]) -> list[str]:
    """Sort parameters as a picture passes them: down, middle, up; otherwise as they come."""
    return sorted(names, key=lambda name: [*BLOCKS, name.split(".")[0]].index(name.split(".")[0]))


def block_of(name: str) -> str:
    """Name the block of the U-Net that a parameter is in: ``down_blocks.0``, ``mid_block``."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0].endswith("_blocks") else parts[0]
