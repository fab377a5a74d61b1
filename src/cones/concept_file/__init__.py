"""Concept files: small, without code, safe to open. FORMAT.md describes every byte.

A file is a safetensors file. The densest level holds its positions among the weights, each sparser
one its positions among those of the level before it. A reader trusts nothing: header, digest,
counts and positions are checked, memory stays within a fixed multiple of the file's own length,
and whatever is wrong is a :class:`~cones.errors.FileError`.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cones.concept import Concept, Word
from cones.concept_file.header import VERSION, Header, read_header, short
from cones.errors import ConesError, FileError
from cones.fingerprint import Fingerprint
from cones.mask import Mask

MOST_BYTES = 64 << 20
SKIP = 255
PER_BYTE = 8  # bytes that a byte of Huffman codes can stand for: a code has at least one bit
POSITIONS, DIGEST = "cones.positions", "cones.sha256"


def load(path: str | Path) -> Concept:
    """Read a concept file."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        found = "more than 64 MiB" if path.is_file() else "no file"
        raise FileError(f"{str(path)!r} is {found}; expected a concept file; check the path")
    try:
        return loads(path.read_bytes())
    except FileError as error:
        raise FileError(f"{str(path)!r}: {error}") from error


def dumps(concept: Concept) -> bytes:
    """Lay out a concept file that can be read back; equal concepts give equal bytes."""
    pieces = {}
    for name in concept.mask:
        levels = [mask.indices[name] for mask in reversed(concept.levels)]
        within = [torch.searchsorted(dense, sparse) for dense, sparse in pairwise(levels)]
        pieces[name] = [encode(positions) for positions in (levels[0], *within)]
    blob = b"".join(piece for each in pieces.values() for piece in each)
    tensors = {
        f"cones.word.{k}.{encoder}": rows.detach().cpu().contiguous().clone()
        for k, word in enumerate(concept.words)
        for encoder, rows in word.embeddings.items()
    }
    tensors[POSITIONS] = torch.from_numpy(np.frombuffer(blob, np.uint8).copy())
    tensors[DIGEST] = torch.zeros(32, dtype=torch.uint8)
    sizes = {name: [len(piece) for piece in each] for name, each in pieces.items()}
    text = json.dumps(_header(concept, sizes), separators=(",", ":"), ensure_ascii=False)
    data = save_tensors(tensors, {"cones": text})[:-32]  # the digest comes last
    data += hashlib.sha256(data).digest()
    try:
        loads(data)
    except FileError as error:
        raise FileError(f"this concept cannot be written: {error}") from error
    return data


def loads(data: bytes) -> Concept:
    """Read the bytes of a concept file."""
    header = read_header(data)
    names = {f"cones.word.{k}.{e}" for k, w in enumerate(header.words) for e in w.encoders}
    if header.tensors.keys() != names | {POSITIONS, DIGEST}:
        raise FileError(
            f"tensors {short(sorted(header.tensors))}; expected those that the header names; "
            "ask whoever wrote the file"
        )
    try:
        tensors = load_tensors(data)
        words = tuple(
            Word(w.identifier, w.noun, {e: tensors[f"cones.word.{k}.{e}"] for e in w.encoders})
            for k, w in enumerate(header.words)
        )
        base = header.base
        known = Fingerprint(base.model, base.weights, bytes.fromhex(base.signs))
        levels = _levels(header, tensors[POSITIONS])
        return Concept(levels, words, known, header.settings, header.certificate)
    except FileError:
        raise
    except (ConesError, SafetensorError) as error:
        raise FileError(
            f"the content does not fit together ({error}); expected a whole concept; ask whoever "
            "wrote the file"
        ) from error


def _header(concept: Concept, sizes: Mapping[str, list[int]]) -> dict[str, object]:
    """Describe a concept; ``sizes`` are the bytes of every level's positions."""
    return {
        "version": VERSION,
        "codec": "gap8-huffman",  # the only one
        "levels": len(concept.levels),
        "parameters": [
            {
                "name": name,
                "shape": concept.mask.shapes[name],
                "counts": [len(mask.indices[name]) for mask in reversed(concept.levels)],
                "bytes": size,
            }
            for name, size in sizes.items()
        ],
        "words": [
            {"identifier": w.identifier, "noun": w.noun, "encoders": list(w.embeddings)}
            for w in concept.words
        ],
        "base": {**vars(concept.base), "signs": concept.base.signs.hex()},
        "settings": concept.settings,
        "certificate": concept.certificate,
    }


def _levels(header: Header, positions: Tensor) -> tuple[Mask, ...]:
    """Decode the positions of every level."""
    blob, start = positions.reshape(-1).view(torch.uint8).numpy().tobytes(), 0
    found: list[dict[str, Tensor]] = [{} for _ in range(header.levels)]
    for p in header.parameters:
        above, numel = None, math.prod(p.shape)
        for level, count, length in zip(found, p.counts, p.bytes, strict=True):
            piece = blob[start : start + length]
            index = decode(piece, count=count, numel=numel)
            level[p.name] = index if above is None else above[index]
            above, numel, start = level[p.name], count, start + length
    if start != len(blob):
        raise FileError(
            f"the positions take {len(blob)} bytes; expected {start}; ask whoever wrote the file"
        )
    shapes = {p.name: tuple(p.shape) for p in header.parameters}
    return tuple(Mask(shapes, level) for level in reversed(found))


def encode(indices: Int64[Tensor, " count"]) -> bytes:
    """Lay out strictly increasing positions, one byte per gap, Huffman-coded (``gap8-huffman``).

    The gap to the previous position (to -1 for the first), less one, is written in base 255: the
    byte 255 says "255 further, no position yet", a smaller byte ends the gap. Gaps of a sparse
    mask are close to geometric: one table per parameter comes within 1 % of the entropy.
    """
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
