"""The codec ``gap8-huffman``: one byte per gap, Huffman-coded per parameter.

The gap to the previous neuron (to -1 for the first), less one, is written in base 255: the byte
255 says "255 further, no neuron yet", a smaller byte ends the gap. Gaps of a sparse mask are close
to geometric, for which a Huffman table per parameter comes within 1 % of the entropy. Layout:
CRC-32 (little-endian, over count and numel as little-endian 64-bit numbers and the rest), then one
raw DEFLATE stream. FORMAT.md has an example.
"""

import zlib

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cones.errors import CodecError

SKIP = 255


def encode(indices: Int64[Tensor, " count"], numel: int) -> bytes:
    """Lay out strictly increasing positions in ``[0, numel)``.

    Raises:
        CodecError: The positions are not of that kind.
    """
    skipped = np.diff(indices.numpy(), prepend=-1) - 1
    if len(skipped) and (skipped.min() < 0 or int(indices[-1]) >= numel):
        raise CodecError(
            f"positions are not strictly increasing in [0, {numel}); expected the indices of a "
            "ConceptMask; sort them with torch.unique"
        )
    whole, rest = np.divmod(skipped, SKIP)
    gaps = np.full(len(skipped) + int(whole.sum()), SKIP, dtype=np.uint8)
    gaps[np.cumsum(whole + 1) - 1] = rest
    press = zlib.compressobj(level=9, wbits=-15, memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
    body = press.compress(gaps.tobytes()) + press.flush()
    return _crc(body, len(skipped), numel) + body


def decode(data: bytes, *, count: int, numel: int) -> Int64[Tensor, " count"]:
    """Read ``count`` positions in ``[0, numel)``; memory stays within count + numel / 255 bytes.

    Raises:
        CodecError: The bytes are damaged, or hold something else.
    """
    if not 0 <= count <= numel or data[:4] != _crc(data[4:], count, numel):
        raise CodecError(
            f"{len(data)} bytes do not hold {count} positions below {numel}: the checksum "
            "differs; expected what this codec wrote; fetch the file again"
        )
    limit = count + numel // SKIP
    gaps = np.frombuffer(_inflated(data[4:], limit), dtype=np.uint8)
    ends = gaps != SKIP
    steps = gaps + ends.astype(np.int64)  # a skip is 255 further, an end its byte and one more
    positions = np.cumsum(steps)[ends] - 1
    complete = len(gaps) == 0 or bool(ends[-1])
    if len(positions) != count or not complete or (count and positions[-1] >= numel):
        raise CodecError(
            f"the bytes hold {len(positions)} positions, the last at "
            f"{positions[-1] if len(positions) else 'none'}; expected {count} below {numel}; "
            "fetch the file again"
        )
    return torch.from_numpy(positions)


def _inflated(body: bytes, limit: int) -> bytes:
    """Inflate one complete stream of at most ``limit`` bytes."""
    inflate = zlib.decompressobj(wbits=-15)
    try:
        gaps = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise CodecError(
            f"the bytes are no DEFLATE stream ({error}); expected what this codec wrote; fetch "
            "the file again"
        ) from error
    if not inflate.eof or inflate.unused_data:  # one byte over the limit is not the end either
        raise CodecError(
            f"the DEFLATE stream is cut, followed by something or longer than {limit} bytes; "
            "expected one complete stream; fetch the file again"
        )
    return gaps


def _crc(body: bytes, count: int, numel: int) -> bytes:
    header = max(count, 0).to_bytes(8, "little") + numel.to_bytes(8, "little")
    return zlib.crc32(header + body).to_bytes(4, "little")
