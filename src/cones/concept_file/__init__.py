"""Concept files: small, without code, safe to open. FORMAT.md describes every byte.

A file is a safetensors file. The positions of the densest level are stored once; one label for
each says from which level on it belongs. A reader trusts nothing: header, digest, counts and
positions are checked, memory stays within a fixed multiple of the file's own length, and whatever
is wrong is a :class:`~cones.errors.FileError`.
"""

import hashlib
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cones.concept import Concept, Word
from cones.concept_file import gaps
from cones.concept_file.header import VERSION, Header, read_header
from cones.errors import ConesError, FileError
from cones.files import write_atomic
from cones.fingerprint import Fingerprint
from cones.mask import Mask

CODECS: dict[str, ModuleType] = {"gap8-huffman": gaps}  # by the name that files store
CODEC = "gap8-huffman"
MOST_BYTES = 64 << 20
POSITIONS, LABELS, DIGEST = "cones.positions", "cones.labels", "cones.sha256"


def save(concept: Concept, path: str | Path) -> int:
    """Write a concept file and return its size in bytes; see :meth:`cones.Concept.save`."""
    data = dumps(concept)
    write_atomic(Path(path), data)
    return len(data)


def load(path: str | Path) -> Concept:
    """Read a concept file.

    Raises:
        FileError: There is no such file, or it is damaged, of another version or something else.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        found = "more than 64 MiB" if path.is_file() else "no file"
        raise FileError(f"{str(path)!r} is {found}; expected a concept file; check the path")
    try:
        return loads(path.read_bytes())
    except FileError as error:
        raise FileError(f"{str(path)!r}: {error}") from error


def dumps(concept: Concept) -> bytes:
    """Lay out a concept file; the same concept always gives the same bytes.

    Raises:
        FileError: The file could not be read back, for example settings nested too deep.
    """
    dense, words = concept.mask, concept.words
    parts = {name: gaps.encode(index) for name, index in dense.indices.items()}
    header = {
        "version": VERSION,
        "codec": CODEC,
        "parameters": [
            {"name": n, "shape": dense.shapes[n], "count": len(dense.indices[n]), "bytes": len(p)}
            for n, p in parts.items()
        ],
        "levels": [len(mask) for mask in concept.levels],
        "words": [
            {"identifier": w.identifier, "noun": w.noun, "encoders": list(w.embeddings)}
            for w in words
        ],
        "base": {**vars(concept.base), "signs": concept.base.signs.hex()},
        "settings": concept.settings,
        "certificate": concept.certificate,
    }
    tensors = {
        f"cones.word.{k}.{encoder}": rows.detach().cpu().contiguous()
        for k, word in enumerate(words)
        for encoder, rows in word.embeddings.items()
    }
    for name, data in ((POSITIONS, b"".join(parts.values())), (LABELS, _labels(concept.levels))):
        tensors[name] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    tensors[DIGEST] = torch.zeros(32, dtype=torch.uint8)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    data = save_tensors(tensors, {"cones": text})[:-32]  # the digest comes last
    data += hashlib.sha256(data).digest()
    try:
        loads(data)
    except FileError as error:
        raise FileError(f"this concept cannot be written: {error}") from error
    return data


def loads(data: bytes) -> Concept:
    """Read the bytes of a concept file.

    Raises:
        FileError: They are damaged, of another version or something else.
    """
    header = read_header(data)
    names = {f"cones.word.{k}.{e}" for k, w in enumerate(header.words) for e in w.encoders}
    if header.tensors.keys() != names | {POSITIONS, LABELS, DIGEST} or header.codec not in CODECS:
        raise FileError(
            f"tensors {sorted(header.tensors)[:5]}, positions written by {header.codec!r}; "
            f"expected those that the header names, and one of {sorted(CODECS)}; update cones"
        )
    try:
        return _concept(header, load_tensors(data))
    except FileError:
        raise
    except (ConesError, SafetensorError) as error:
        raise FileError(
            f"the content does not fit together ({error}); expected a whole concept; ask whoever "
            "wrote the file"
        ) from error


def _concept(header: Header, tensors: dict[str, Tensor]) -> Concept:
    """Build a concept from a checked header and the tensors."""
    words = [
        Word(w.identifier, w.noun, {e: tensors[f"cones.word.{k}.{e}"] for e in w.encoders})
        for k, w in enumerate(header.words)
    ]
    base = header.base
    return Concept(
        levels=_levels(header, tensors[POSITIONS], tensors[LABELS]),
        words=tuple(words),
        base=Fingerprint(base.model, base.layout, base.weights, bytes.fromhex(base.signs)),
        settings=header.settings,
        certificate=header.certificate,
    )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _labels(levels: tuple[Mask, ...]) -> bytes:
    """Lay out, for every position of the last level, the first level that holds it."""
    if len(levels) == 1:
        return b""
    marks = []
    for name, dense in levels[-1].indices.items():
        mark = np.full(len(dense), len(levels) - 1, dtype=np.uint8)
        for k in reversed(range(len(levels) - 1)):
            mark[np.searchsorted(dense.numpy(), levels[k].indices[name].numpy())] = k
        marks.append(mark)
    digits, places = np.concatenate(marks), _places(len(levels))
    padded = np.pad(digits, (0, -len(digits) % len(places)))
    return gaps.deflate((padded.reshape(-1, len(places)) * places).sum(1).astype(np.uint8))


def _unlabelled(data: bytes, *, count: int, levels: int) -> UInt8[np.ndarray, " _"]:
    """Read ``count`` labels."""
    if levels == 1:
        return np.zeros(count, np.uint8)
    places = _places(levels)
    packed = gaps.inflate(data, -(-count // len(places)))
    return (packed[:, None] // places % levels).astype(np.uint8).reshape(-1)[:count]


def _places(levels: int) -> UInt8[np.ndarray, " _"]:
    """Give the values of the places of a number to base ``levels`` that fills one byte."""
    return np.array([levels**k for k in range(8) if levels ** (k + 1) <= 256], np.uint8)


def _levels(header: Header, positions: Tensor, labels: Tensor) -> tuple[Mask, ...]:
    """Decode the positions and share them out to the levels."""
    blob, many = _bytes(positions), len(header.levels)
    start, indices, counts = 0, {}, [p.count for p in header.parameters]
    for p in header.parameters:
        piece, numel = blob[start : start + p.bytes], math.prod(p.shape)
        indices[p.name] = CODECS[header.codec].decode(piece, count=p.count, numel=numel)
        start += p.bytes
    marks = _unlabelled(_bytes(labels), count=sum(counts), levels=many)
    held = np.bincount(marks, minlength=many).cumsum().tolist()
    if start != len(blob) or len(marks) != sum(counts) or held != header.levels:
        raise FileError(
            f"levels of {held[:20]} positions, the positions in {len(blob)} bytes; expected "
            f"{header.levels} in {start}; ask whoever wrote the file"
        )
    shapes = {p.name: tuple(p.shape) for p in header.parameters}
    split = dict(zip(shapes, np.split(marks, np.cumsum(counts)[:-1]), strict=True))
    return tuple(
        Mask(shapes, {n: index[torch.from_numpy(split[n] <= k)] for n, index in indices.items()})
        for k in range(many)
    )
