"""The values of concept neurons as tensors of a concept file: packed codes, or floats.

All parameters stand one after another, in the order of the mask. Quaternary takes 2 bits a neuron
and binary 1 bit, beside one float32 scale per parameter. FORMAT.md describes the bits. Where the
neurons are is another codec's work.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from cones.errors import CodecError
from cones.precision import LEVELS, Values, codes, decoded, largest, require_precision

NAME, SCALE = "cones.values", "cones.values.scale"
FLOATS = {"float32": torch.float32, "float16": torch.float16}
BITS = {name: (len(levels) - 1).bit_length() for name, levels in LEVELS.items()}


def pack(values: Values, order: Iterable[str]) -> dict[str, Tensor]:
    """Lay out values as the tensors of a file, by name; ``order`` lists the parameters."""
    parts = [values.numbers[name] for name in order]
    if values.precision in FLOATS:
        return {NAME: _joined(parts, torch.float32).to(FLOATS[values.precision])}
    scales = [largest(part) for part in parts]
    numbered = [
        codes(part, scale, values.precision) for part, scale in zip(parts, scales, strict=True)
    ]
    packed = _bits(_joined(numbered, torch.uint8), BITS[values.precision])
    return {NAME: packed, SCALE: torch.tensor([float(scale) for scale in scales])}


def unpack(precision: str, tensors: Mapping[str, Tensor], counts: Mapping[str, int]) -> Values:
    """Read what :func:`pack` gave.

    Args:
        precision: One of :data:`cones.precision.PRECISIONS`.
        tensors: Of the file.
        counts: Neurons of each parameter, in the order of the mask.

    Raises:
        CodecError: The tensors are of another size or kind, or hold what no writer writes.
    """
    require_precision(precision)
    stored, total = tensors[NAME], sum(counts.values())
    if precision in FLOATS:
        _require(stored, FLOATS[precision], total, "values")
        return Values(precision, dict(zip(counts, _parts(stored, counts), strict=True)))
    bits, scales = BITS[precision], tensors[SCALE]
    _require(stored, torch.uint8, -(-total * bits // 8), "bytes of values")
    _require(scales, torch.float32, len(counts), "scales")
    numbered = _numbers(stored, bits, total)
    if not _bits(numbered, bits).equal(stored):
        raise CodecError(
            "the bits after the last value are not 0; expected nothing there; ask whoever wrote "
            "the file"
        )
    if not bool((scales >= 0).all()):
        raise CodecError(
            "a scale of values is negative or no number; expected 0 or more; ask whoever wrote "
            "the file"
        )
    parts = zip(_parts(numbered, counts), scales, strict=True)
    found = [decoded(part, scale, precision) for part, scale in parts]
    return Values(precision, dict(zip(counts, found, strict=True)))


def _require(found: Tensor, dtype: torch.dtype, count: int, what: str) -> None:
    if found.dtype != dtype or tuple(found.shape) != (count,):
        raise CodecError(
            f"found {tuple(found.shape)} {what} of {found.dtype}; expected {count} of {dtype}; "
            "ask whoever wrote the file"
        )


def _joined(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.empty(0, dtype=dtype), *parts])


def _parts(joined: Tensor, counts: Mapping[str, int]) -> tuple[Tensor, ...]:
    return joined.split(list(counts.values())) if counts else ()


def _bits(numbers: UInt8[Tensor, " n"], width: int) -> UInt8[Tensor, " bytes"]:
    """Pack numbers of ``width`` bits, the most significant first; the last byte ends in zeros."""
    each = np.unpackbits(numbers.numpy()[:, None], axis=1)[:, 8 - width :]
    return torch.from_numpy(np.packbits(each.reshape(-1)))


def _numbers(packed: UInt8[Tensor, " bytes"], width: int, count: int) -> UInt8[Tensor, " n"]:
    """Read ``count`` numbers of ``width`` bits."""
    each = np.unpackbits(packed.numpy(), count=count * width).reshape(count, width)
    filled = np.concatenate([np.zeros((count, 8 - width), np.uint8), each], axis=1)
    return torch.from_numpy(np.packbits(filled, axis=1)[:, 0].copy())
