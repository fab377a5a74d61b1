"""Reading and writing concept files, described byte by byte in FORMAT.md.

Level 0 is stored as it is, every further level as what it adds to the one before. A concept with
values is of version 2, so that no older reader shuts what is to be written. Everything in a file
is checked before it is used, and whatever is wrong with one is a
:class:`~cones.errors.CodecError`. The codec of positions is named in the file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cones import __version__
from cones.base_check import BaseCheck
from cones.codecs import CODECS, DEFAULT, container, numbers
from cones.concept import Concept, Member
from cones.errors import CodecError, ConesError
from cones.mask import ConceptMask
from cones.precision import Values

FORMAT, VERSION, WITH_VALUES = "cones", "1", "2"


def save(concept: Concept, path: Path | str, *, with_levels: bool = True) -> int:
    """Write a concept file and return its size in bytes.

    Args:
        concept: What to write.
        path: Where; by custom ``*.cones.safetensors``. An existing file is replaced at once.
        with_levels: False stores only the mask in use.
    """
    data = dumps(concept, with_levels=with_levels)
    container.write(Path(path), data)
    return len(data)


def load(path: Path | str) -> Concept:
    """Read a concept file.

    Raises:
        CodecError: It is damaged, of a newer version or no concept file.
    """
    try:
        return loads(Path(path).read_bytes())
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error


def dumps(concept: Concept, *, with_levels: bool = True) -> bytes:
    """Lay out a concept file; the same concept always gives the same bytes."""
    levels = concept.levels if with_levels else (concept.mask,)
    tensors = {"cones.base.signs": _bytes_tensor(concept.base.signs)}
    parameters = [{"name": n, "shape": list(s)} for n, s in concept.mask.shapes.items()]
    counts, sizes = [], []
    for k, added in enumerate(_increments(levels)):
        parts = [CODECS[DEFAULT].encode(added.indices[n], _numel(added.shapes[n])) for n in added]
        counts.append([len(added.indices[n]) for n in added])
        sizes.append([len(part) for part in parts])
        tensors[f"cones.mask.{k}"] = _bytes_tensor(b"".join(parts))
    for i, member in enumerate(concept.members):
        for encoder, embedding in member.embeddings.items():
            tensors[f"cones.token.{i}.{encoder}"] = embedding
    described = {
        "codec": DEFAULT,
        "parameters": parameters,
        "counts": counts,
        "sizes": sizes,
        "level": concept.level if with_levels else 0,
        **_found(concept),
    }
    version = VERSION
    if concept.values is not None:
        version = WITH_VALUES
        tensors |= numbers.pack(concept.values, concept.mask)
        described["values"] = {"precision": concept.values.precision}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    metadata = {"format": FORMAT, "format_version": version, "library": f"cones {__version__}"}
    return container.pack({**metadata, "concept": text}, tensors)


def _found(concept: Concept) -> dict[str, Any]:
    """Describe whom a concept names, where and how it was found."""
    return {
        "members": [
            {"identifier": m.identifier, "noun": m.noun, "encoders": list(m.embeddings)}
            for m in concept.members
        ],
        "base": {name: getattr(concept.base, name) for name in ("model", "layout", "weights")},
        "settings": concept.settings,
        "certificate": concept.certificate,
    }


def loads(data: bytes) -> Concept:
    """Read the bytes of a concept file.

    Raises:
        CodecError: They are damaged, of a newer version or no concept file.
    """
    metadata, tensors = container.unpack(data)
    found = metadata.get("format"), metadata.get("format_version")
    if found not in ((FORMAT, VERSION), (FORMAT, WITH_VALUES)):
        raise CodecError(
            f"format and version are {found}, expected {FORMAT!r} and {VERSION!r} or "
            f"{WITH_VALUES!r}; update cones if the version is newer"
        )
    try:
        described = json.loads(metadata["concept"])
        if ("values" in described) != (found[1] == WITH_VALUES):
            raise CodecError(
                f"version {found[1]} is with{'out' * ('values' not in described)} values; "
                "expected them in version 2 and only there; ask whoever wrote the file"
            )
        return _concept(described, tensors)
    except CodecError:
        raise
    except (
        ConesError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise CodecError(
            f"the description is not understood ({type(error).__name__}: {error}); expected what "
            "FORMAT.md says; ask whoever wrote the file"
        ) from error


def _concept(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Concept:
    """Build a concept from the parts of a file."""
    shapes = {p["name"]: tuple(p["shape"]) for p in described["parameters"]}
    if len(shapes) != len(described["parameters"]) or not all(
        type(d) is int and d >= 0 for shape in shapes.values() for d in shape
    ):
        raise CodecError(
            "a parameter is listed twice or its shape is not whole numbers; expected each once; "
            "ask whoever wrote the file"
        )
    if described["codec"] not in CODECS:
        raise CodecError(
            f"positions are written by {described['codec']!r}, expected one of {sorted(CODECS)}; "
            "update cones"
        )
    levels: list[ConceptMask] = []
    rows = zip(described["counts"], described["sizes"], strict=True)
    for k, (counts, sizes) in enumerate(rows):
        blob = tensors[f"cones.mask.{k}"].numpy().tobytes()
        added = _level(blob, shapes, counts, sizes, codec=described["codec"])
        levels.append(levels[-1] | added if levels else added)
    members = tuple(
        Member(
            m["identifier"],
            m["noun"],
            {e: tensors[f"cones.token.{i}.{e}"] for e in m["encoders"]},
        )
        for i, m in enumerate(described["members"])
    )
    signs = tensors["cones.base.signs"].numpy().tobytes()
    return Concept(
        levels=tuple(levels),
        level=described["level"],
        members=members,
        base=BaseCheck(**described["base"], signs=signs),
        settings=described["settings"],
        certificate=described["certificate"],
        values=_values(described, tensors, levels[-1]),
    )


def _values(
    described: Mapping[str, Any], tensors: Mapping[str, Tensor], mask: ConceptMask
) -> Values | None:
    """Read the values at the neurons, where a file has any."""
    if "values" not in described:
        return None
    counts = {name: len(index) for name, index in mask.indices.items()}
    return numbers.unpack(described["values"]["precision"], tensors, counts)


def _level(
    blob: bytes,
    shapes: Mapping[str, tuple[int, ...]],
    counts: list[int],
    sizes: list[int],
    *,
    codec: str,
) -> ConceptMask:
    """Cut the bytes of one level into parameters and decode them."""
    if any(size < 0 for size in sizes) or sum(sizes) != len(blob):
        raise CodecError(
            f"the parameters of a level take {sum(sizes)} bytes, expected {len(blob)}; "
            "ask whoever wrote the file"
        )
    indices, start = {}, 0
    for (name, shape), count, size in zip(shapes.items(), counts, sizes, strict=True):
        piece = blob[start : start + size]
        indices[name] = CODECS[codec].decode(piece, count=count, numel=_numel(shape))
        start += size
    return ConceptMask(shapes, indices)


def _increments(levels: tuple[ConceptMask, ...]) -> list[ConceptMask]:
    later = [levels[k] - levels[k - 1] for k in range(1, len(levels))]
    return [levels[0], *later]


def _numel(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _bytes_tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
