"""Ways to write the sorted positions of one parameter in few bytes.

A codec is a module with ``encode`` and ``decode``, listed in :data:`CODECS` under the name that
concept files store. A new one is a new file here and a line in that dictionary; the contract
tests run over the dictionary. The file around the bytes is :mod:`cones.codecs.container`.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from cones.codecs import packed


@runtime_checkable
class Codec(Protocol):
    """What a codec module offers."""

    def encode(self, indices: Int64[Tensor, " count"], numel: int) -> bytes:
        """Lay out strictly increasing positions in ``[0, numel)``."""
        ...

    def decode(self, data: bytes, *, count: int, numel: int) -> Int64[Tensor, " count"]:
        """Read them back, or raise :class:`~cones.errors.CodecError` on any damage."""
        ...


CODECS: dict[str, Codec] = {"gap8-huffman": packed}
DEFAULT = "gap8-huffman"
