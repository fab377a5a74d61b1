"""What is rendered, as mitsuba wants it: the camera, the light, meshes and their materials."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus.mesh import Part
from cones.mini.corpus.views import View

SIDE = 144  # pixels of a render
FIELD_OF_VIEW = 24.0  # degrees
BLACK = 0.02  # what the blackest paint still reflects
Texture = Callable[[str], Image.Image | None]


@cache
def mitsuba_module() -> Any:
    """Load the renderer.

    Raises:
        SubjectError: The extra ``corpus`` is not installed.
    """
    try:
        import mitsuba
    except ImportError as error:
        raise SubjectError(
            'found no mitsuba; expected it to render 3D models; pip install "cones[corpus]"'
        ) from error
    mitsuba.set_variant("scalar_rgb")
    mitsuba.set_log_level(mitsuba.LogLevel.Error)
    return mitsuba


def sensor(mi: Any, parts: Sequence[Part], view: View) -> dict[str, Any]:
    """Look at the middle of the thing from far enough to see all of it."""
    corners = np.concatenate([part.corners for part in parts])
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
    radius = float(np.linalg.norm(corners - centre, axis=1).max())
    azimuth, elevation = np.radians((view.azimuth, view.elevation))
    towards = np.array(
        (
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        )
    )
    distance = radius / np.sin(np.radians(FIELD_OF_VIEW / 2))
    return {
        "type": "perspective",
        "fov": FIELD_OF_VIEW,
        "to_world": mi.ScalarTransform4f().look_at(
            origin=(centre + distance * towards).tolist(), target=centre.tolist(), up=[0, 1, 0]
        ),
        "film": {"type": "hdrfilm", "width": SIDE, "height": SIDE, "pixel_format": "rgba"},
        "sampler": {"type": "independent"},
    }


def light_around(mi: Any, light: Float[np.ndarray, "h w 3"], turn: float) -> dict[str, Any]:
    """Light the scene by a panorama, turned by degrees."""
    pixels = np.ascontiguousarray(light, dtype=np.float32)
    around = mi.ScalarTransform4f().rotate([0, 1, 0], turn)
    return {"type": "envmap", "bitmap": mi.Bitmap(pixels), "to_world": around}


def mesh_of(mi: Any, part: Part, texture: Texture, number: int) -> Any:
    """Make a mesh of a part; textures are read by name."""
    count = len(part.corners)
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(_surface(mi, part, texture))
    if part.normals is None:
        properties["face_normals"] = True
    mesh = mi.Mesh(
        f"part{number}",
        count,
        count // 3,
        has_vertex_normals=part.normals is not None,
        has_vertex_texcoords=part.uv is not None,
        props=properties,
    )
    values = mi.traverse(mesh)
    values["vertex_positions"] = np.ravel(part.corners).astype(np.float32)
    values["faces"] = np.arange(count, dtype=np.uint32)
    if part.normals is not None:
        values["vertex_normals"] = np.ravel(part.normals).astype(np.float32)
    if part.uv is not None:
        flipped = part.uv * (1, -1) + (0, 1)  # of an image the upper row comes first
        values["vertex_texcoords"] = np.ravel(flipped).astype(np.float32)
    values.update()
    return mesh


def _surface(mi: Any, part: Part, texture: Texture) -> dict[str, Any]:
    """Describe a material: matt or slightly shiny, seen from both sides, perhaps see-through."""
    material = part.material
    image = texture(material.texture) if material.texture and part.uv is not None else None
    linear = np.clip(np.array(material.colour) ** 2.2, BLACK, 0.96)  # files name sRGB
    reflected: dict[str, Any] = {"type": "rgb", "value": linear.tolist()}
    opacity: Any = material.opacity
    if image is not None:
        reflected = {"type": "bitmap", "bitmap": mi.Bitmap(np.array(image.convert("RGB")))}
        if "A" in image.getbands() or "transparency" in image.info:
            alpha = np.array(image.convert("RGBA"))[..., 3:].copy()
            opacity = {"type": "bitmap", "bitmap": mi.Bitmap(alpha), "raw": True}
    surface: dict[str, Any] = {"type": "diffuse", "reflectance": reflected}
    if material.gloss > 0.15 and material.shine > 10:
        surface = {"type": "roughplastic", "diffuse_reflectance": reflected, "alpha": 0.25}
    surface = {"type": "twosided", "surface": surface}
    if opacity != 1.0:
        surface = {"type": "mask", "surface": surface, "opacity": opacity}
    return surface
