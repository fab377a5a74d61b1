"""The codec ``gap8-huffman``: one byte per gap between positions, Huffman-coded per parameter.

The gap to the previous position (to -1 for the first), less one, is written in base 255: the byte
255 says "255 further, no position yet", a smaller byte ends the gap. Gaps of a sparse mask are
close to geometric, for which one Huffman table per parameter comes within 1 % of the entropy.
"""

import zlib

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cones.errors import FileError

SKIP = 255
PER_BYTE = 8  # bytes that a byte of Huffman codes can stand for: a code has at least one bit


def encode(indices: Int64[Tensor, " count"]) -> bytes:
    """Lay out strictly increasing positions."""
    skipped = np.diff(indices.numpy(), prepend=-1) - 1
    whole, rest = np.divmod(skipped, SKIP)
    gaps = np.full(len(skipped) + int(whole.sum()), SKIP, dtype=np.uint8)
    gaps[np.cumsum(whole + 1) - 1] = rest
    press = zlib.compressobj(level=9, wbits=-15, memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
    return press.compress(gaps.tobytes()) + press.flush()


def decode(data: bytes, *, count: int, numel: int) -> Int64[Tensor, " count"]:
    """Read ``count`` positions in ``[0, numel)``, from one whole DEFLATE stream."""
    stream, most = zlib.decompressobj(wbits=-15), min(count + numel // SKIP, PER_BYTE * len(data))
    try:
        found = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise FileError(f"{error}; expected a DEFLATE stream; fetch the file again") from error
    if not stream.eof or stream.unused_data or len(found) > most:
        raise FileError(
            f"a DEFLATE stream is cut, followed by something or longer than {most} bytes; "
            "expected one whole stream; fetch the file again"
        )
    gaps = np.frombuffer(found, dtype=np.uint8)
    ends = gaps != SKIP
    held = int(ends.sum())
    steps = gaps + ends.astype(np.int64)  # a skip is 255 further, an end its byte and one more
    positions = np.cumsum(steps, out=steps)[ends] - 1
    cut = len(gaps) and not ends[-1]
    if held != count or cut or (count and positions[-1] >= numel):
        raise FileError(
            f"a parameter holds {held} positions, up to {positions[-1:]}, cut: {bool(cut)}; "
            f"expected {count} below {numel}; fetch the file again"
        )
    return torch.from_numpy(positions)
