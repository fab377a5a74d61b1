"""OBJ meshes and their MTL materials, as far as the furniture libraries use them.

Every material's triangles become one part with corners of its own, because renderers read an OBJ
file as one part of one material. Polygons are cut into fans.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from cones.errors import SubjectError

GREY = (0.6, 0.6, 0.6)  # of materials that the MTL file lacks


@dataclass(frozen=True)
class Material:
    """Colour (0 to 1) or the name of a texture file, opacity (0 to 1), shine (Phong exponent)."""

    colour: tuple[float, float, float] = GREY
    texture: str | None = None
    opacity: float = 1.0
    shine: float = 0.0
    gloss: float = 0.0


@dataclass(frozen=True)
class Part:
    """Triangles of one material, three corners in a row for each.

    Attributes:
        corners: Positions.
        uv: Texture coordinates, from the lower left corner, or None.
        normals: Or None, where the file lacks or has useless ones.
        material: What they are made of.
    """

    corners: Float[np.ndarray, "n 3"]
    uv: Float[np.ndarray, "n 2"] | None
    normals: Float[np.ndarray, "n 3"] | None
    material: Material


@dataclass
class _Faces:
    corners: list[int] = field(default_factory=list)
    uv: list[int] = field(default_factory=list)
    normals: list[int] = field(default_factory=list)


def read_obj(text: str, materials: Mapping[str, Material]) -> list[Part]:
    """Read the parts of an OBJ file.

    Args:
        text: The file.
        materials: Of its MTL files, by name; what is missing is grey.

    Raises:
        SubjectError: It has no triangle, or numbers corners that it does not have.
    """
    values: dict[str, list[list[float]]] = {"v": [], "vt": [], "vn": []}
    faces: dict[str, _Faces] = {}
    current = ""
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word in values:
            values[word].append([float(each) for each in rest[: 2 if word == "vt" else 3]])
        elif word == "usemtl":
            current = " ".join(rest)
        elif word == "f":
            _fan(faces.setdefault(current, _Faces()), rest, values)
    tables = {word: np.array(rows or [[0.0] * 3], np.float64) for word, rows in values.items()}
    try:
        parts = [_part(tables, each, materials.get(name)) for name, each in faces.items()]
    except IndexError as error:
        raise SubjectError(
            f"found a mesh whose faces name missing corners ({error}); expected them all; "
            "leave the model out"
        ) from error
    parts = [part for part in parts if len(part.corners)]
    if not parts:
        raise SubjectError("found a mesh without triangles; expected some; leave the model out")
    return parts


def read_mtl(text: str) -> dict[str, Material]:
    """Read the materials of an MTL file by name."""
    found: dict[str, dict] = {}
    current: dict = {}
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "newmtl":
            current = found.setdefault(" ".join(rest), {})
        elif word == "Kd":
            current["colour"] = tuple(float(each) for each in rest[:3])
        elif word == "Ks":
            current["gloss"] = float(np.mean([float(each) for each in rest[:3]]))
        elif word == "Ns":
            current["shine"] = float(rest[0])
        elif word == "d":
            current["opacity"] = float(rest[-1])
        elif word == "Tr":
            current.setdefault("opacity", 1 - float(rest[0]))
        elif word == "map_Kd":
            current["texture"] = " ".join(rest)
    return {name: Material(**each) for name, each in found.items()}


def _fan(faces: _Faces, words: list[str], values: Mapping[str, list]) -> None:
    """Add a polygon as a fan of triangles; numbers count from 1, or back from the last."""
    corners = [_numbers(word, values) for word in words]
    for k in range(1, len(corners) - 1):
        for corner in (corners[0], corners[k], corners[k + 1]):
            faces.corners.append(corner[0])
            faces.uv.append(corner[1])
            faces.normals.append(corner[2])


def _numbers(word: str, values: Mapping[str, list]) -> list[int]:
    found = []
    for part, kind in zip([*word.split("/"), "", ""][:3], ("v", "vt", "vn"), strict=True):
        number = int(part) if part else 0
        found.append(number - 1 if number > 0 else len(values[kind]) + number if part else -1)
    return found


def _part(tables: Mapping[str, np.ndarray], faces: _Faces, material: Material | None) -> Part:
    corners = tables["v"][np.array(faces.corners)]
    a, b, c = corners[::3], corners[1::3], corners[2::3]
    kept = np.repeat(np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12, 3)
    uv = tables["vt"][np.array(faces.uv)][:, :2] if min(faces.uv) >= 0 else None
    normals = tables["vn"][np.array(faces.normals)] if min(faces.normals) >= 0 else None
    if normals is not None and (np.linalg.norm(normals, axis=1) < 1e-3).any():
        normals = None
    return Part(
        corners[kept],
        None if uv is None else uv[kept],
        None if normals is None else normals[kept],
        material or Material(),
    )
