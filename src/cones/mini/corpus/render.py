"""Path-trace one view of a thing, cut out: what stands for a photograph in the corpus."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus.catalogue import Model
from cones.mini.corpus.drawings import trimmed
from cones.mini.corpus.mesh import Material, Part, read_mtl, read_obj
from cones.mini.corpus.scene import Texture, light_around, mesh_of, mitsuba_module, sensor
from cones.mini.corpus.solids import Solid
from cones.mini.corpus.views import View

SAMPLES, DEPTH = 48, 5  # paths a pixel, bounces
CREASE = np.cos(np.radians(40.0))
EXPOSURE = 1.5  # of a white thing in the mean light
DARKEST, LEAST = 0.003, 0.01  # mean luminance and covered share, below which a render has failed


def model_parts(model: Model) -> tuple[list[Part], Texture]:
    """Read a model's mesh, upright and in centimetres, and give who reads its textures.

    Raises:
        SubjectError: The mesh is missing or broken.
    """
    folder = PurePosixPath(model.file).parent
    with zipfile.ZipFile(model.library) as opened:
        known = {name.lower(): name for name in opened.namelist()}
        if model.file.lower() not in known:
            raise SubjectError(
                f"found no {model.file} in {model.library.name}; expected the mesh of "
                f"{model.identity}; leave it out"
            )
        text = opened.read(known[model.file.lower()]).decode("utf-8", "replace")
        named = [line.split(None, 1)[1] for line in text.splitlines() if line[:7] == "mtllib "]
        materials: dict[str, Material] = {}
        for name in named:
            found = known.get(str(folder / name.strip()).lower())
            if found:
                materials |= read_mtl(opened.read(found).decode("utf-8", "replace"))
        wanted = {each.texture for each in materials.values() if each.texture}
        files = {name: known.get(str(folder / name).lower()) for name in wanted}
        data = {name: opened.read(file) for name, file in files.items() if file}

    def texture(name: str) -> Image.Image | None:
        return Image.open(io.BytesIO(data[name])) if name in data else None

    return _sized(read_obj(text, materials), model), texture


def smoothed(
    corners: Float[np.ndarray, "n 3"], triangles: Int[np.ndarray, "m 3"]
) -> Float[np.ndarray, "3m 3"]:
    """Give every triangle's corners normals that are smooth but for creases of over 40 degrees."""
    a, b, c = (corners[triangles[:, k]] for k in range(3))
    faces = np.cross(b - a, c - a)
    length = np.linalg.norm(faces, axis=1, keepdims=True)
    unit = faces / np.maximum(length, 1e-12)
    flat = triangles.ravel()
    owner = np.repeat(np.arange(len(triangles)), 3)
    found = np.zeros((len(flat), 3))
    order = np.argsort(flat, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(flat[order])) + 1):
        around = owner[group]
        near = unit[around] @ unit[around].T > CREASE
        found[group] = near @ faces[around]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def solid_parts(solid: Solid) -> tuple[list[Part], Texture]:
    """Give the parts of a solid of our own; it has no textures."""
    parts = [
        Part(
            piece.corners[piece.triangles.ravel()],
            None,
            smoothed(piece.corners, piece.triangles),
            Material(piece.colour),
        )
        for piece in solid.pieces
    ]
    return parts, lambda name: None


def render(
    parts: Sequence[Part],
    texture: Texture,
    view: View,
    light: Float[np.ndarray, "h w 3"],
    *,
    seed: int = 0,
) -> Image.Image:
    """Path-trace a thing and cut it out: RGBA, long side 96 px, margin 2 px.

    Args:
        parts: What it is made of; y is up, z towards the front.
        texture: Reads textures by name.
        view: From where.
        light: Panorama around it, linear.
        seed: Of the paths.

    Raises:
        SubjectError: The extra ``corpus`` is not installed, or nothing, or blackness, came out.
    """
    mi = mitsuba_module()
    scene = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": DEPTH, "hide_emitters": True},
        "sensor": sensor(mi, parts, view),
        "light": light_around(mi, light, view.turn),
    }
    scene |= {f"part{k}": mesh_of(mi, part, texture, k) for k, part in enumerate(parts)}
    traced = np.array(mi.render(mi.load_dict(scene), spp=SAMPLES, seed=seed), dtype=np.float32)
    return trimmed(_developed(traced, light))


def _developed(
    traced: Float[np.ndarray, "h w 4"], light: Float[np.ndarray, "h w 3"]
) -> Image.Image:
    """Expose for the mean light, bend what is too bright, encode as sRGB."""
    alpha = np.clip(traced[..., 3:], 0, 1)
    if alpha.mean() < LEAST:
        raise SubjectError("found nothing in the render; expected a thing; leave it out")
    linear = np.nan_to_num(traced[..., :3]) / np.maximum(alpha, 1e-3)
    rows = np.cos(np.linspace(np.pi / 2, -np.pi / 2, len(light)))[:, None, None]
    mean = float((light * rows).mean() / rows.mean())
    bent = 1 - np.exp(-EXPOSURE * np.maximum(linear, 0) / max(mean, 1e-6))
    if float((bent.mean(axis=-1) * alpha[..., 0]).sum() / alpha.sum()) < DARKEST:
        raise SubjectError("found blackness in the render; expected a thing; leave it out")
    encoded = np.where(bent < 0.0031308, 12.92 * bent, 1.055 * bent ** (1 / 2.4) - 0.055)
    pixels = np.concatenate([encoded, alpha], axis=-1)
    return Image.fromarray((255 * np.clip(pixels, 0, 1)).round().astype(np.uint8), "RGBA")


def _sized(parts: Sequence[Part], model: Model) -> list[Part]:
    """Turn the mesh upright and scale it to the catalogue's size."""
    turned = [part.corners @ model.rotation.T for part in parts]
    low = np.min([each.min(axis=0) for each in turned], axis=0)
    high = np.max([each.max(axis=0) for each in turned], axis=0)
    width, depth, height = model.size_cm
    scale = np.array((width, height, depth)) / np.maximum(high - low, 1e-9)
    found = []
    for part, corners in zip(parts, turned, strict=True):
        normals = part.normals
        if normals is not None:
            normals = normals @ model.rotation.T / np.maximum(scale, 1e-9)
            normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        found.append(Part((corners - low) * scale, part.uv, normals, part.material))
    return found
