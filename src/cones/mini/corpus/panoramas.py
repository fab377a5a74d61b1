"""Panoramas of places: read, repaired, and cut into pictures as a camera would take them.

They are the backgrounds that look like photographs, and the light on the 3D models.
"""

import base64
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cones.errors import SubjectError

BRIGHTEST = 60.0  # what is brighter is a sun that was recorded wrongly


def read(folder: Path) -> dict[str, Float[np.ndarray, "h w 3"]]:
    """Read the panoramas of npm's ``@pmndrs/assets``: EXR files written as base64 into modules.

    Args:
        folder: The unpacked package.

    Returns:
        Linear light by name; the upper row is the zenith, the middle column the front.

    Raises:
        SubjectError: There is none, or the extra ``corpus`` is not installed.
    """
    files = sorted((folder / "package" / "hdri").glob("*.exr.js"))
    if not files:
        raise SubjectError(
            f"found no panorama in {folder / 'package' / 'hdri'}; expected *.exr.js of "
            "@pmndrs/assets; fetch the package again"
        )
    found = {}
    for file in files:
        text = file.read_text("utf-8").partition("base64,")[2]
        data = base64.b64decode(text.partition("'")[0])
        found[file.name.removesuffix(".exr.js")] = repaired(_decoded(data))
    return found


def repaired(panorama: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Replace what no light can be (negative, infinite, not a number) by what is around it."""
    pixels = np.array(panorama, dtype=np.float32)
    bad = ~np.isfinite(pixels).all(axis=-1) | (pixels < 0).any(axis=-1)
    pixels = np.clip(np.where(bad[..., None], 0, pixels), 0, BRIGHTEST)
    return _filled(pixels, bad)


def crop(
    panorama: Float[np.ndarray, "h w 3"],
    azimuth: float,
    pitch: float,
    field_of_view: float,
    side: int,
) -> tuple[Float[np.ndarray, "side side 3"], float]:
    """Look into a panorama with a straight camera (gnomonic projection, bilinear).

    Args:
        panorama: Linear light.
        azimuth: Degrees to the right of its middle column.
        pitch: Degrees upwards, below 90.
        field_of_view: Degrees, of both sides.
        side: Pixels.

    Returns:
        Linear light, and the row of the horizon in shares of the height.
    """
    half = np.tan(np.radians(field_of_view / 2))
    across = (2 * (np.arange(side) + 0.5) / side - 1) * half
    right, down = np.meshgrid(across, across)
    tilt = np.radians(pitch)
    up = -down * np.cos(tilt) + np.sin(tilt)
    forward = np.cos(tilt) + down * np.sin(tilt)
    longitude = np.arctan2(right, forward) + np.radians(azimuth)
    latitude = np.arctan2(up, np.hypot(right, forward))
    horizon = float(np.tan(tilt) / half + 1) / 2
    return _sampled(panorama, longitude, latitude), horizon


def developed(
    linear: Float[np.ndarray, "h w 3"], brightness: float = 0.35
) -> UInt8[np.ndarray, "h w 3"]:
    """Expose so that the typical light becomes ``brightness`` of white, and encode as sRGB."""
    typical = float(np.exp(np.log(linear.mean(axis=-1) + 1e-4).mean()))
    bent = 1 - np.exp(np.log(1 - brightness) * linear / typical)
    encoded = np.where(bent < 0.0031308, 12.92 * bent, 1.055 * bent ** (1 / 2.4) - 0.055)
    return (255 * np.clip(encoded, 0, 1)).round().astype(np.uint8)


def _sampled(
    panorama: Float[np.ndarray, "h w 3"],
    longitude: Float[np.ndarray, "a b"],
    latitude: Float[np.ndarray, "a b"],
) -> Float[np.ndarray, "a b 3"]:
    height, width = panorama.shape[:2]
    x = (longitude / (2 * np.pi) + 0.5) * width - 0.5
    y = np.clip((0.5 - latitude / np.pi) * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    dx, dy = (x - left)[..., None], (y - top)[..., None]
    bottom = np.minimum(top + 1, height - 1)
    left, right = left % width, (left + 1) % width  # around the seam
    upper = panorama[top, left] * (1 - dx) + panorama[top, right] * dx
    lower = panorama[bottom, left] * (1 - dx) + panorama[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def _filled(
    pixels: Float[np.ndarray, "h w 3"], bad: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Grow good pixels into bad ones, a ring at a time, by the mean of their good neighbours."""
    good = ~bad
    if not good.any():
        raise SubjectError("found a panorama without light; expected some; fetch it again")
    while not good.all():
        total, count = np.zeros_like(pixels), np.zeros(good.shape, np.float32)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            near = np.roll(good, step, axis)
            total += np.roll(pixels, step, axis) * near[..., None]
            count += near
        new = ~good & (count > 0)
        pixels[new] = total[new] / count[new, None]
        good |= new
    return pixels


def _decoded(data: bytes) -> Float[np.ndarray, "h w 3"]:
    try:
        import OpenEXR
    except ImportError as error:
        raise SubjectError(
            'found no OpenEXR; expected it to read panoramas; pip install "cones[corpus]"'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "panorama.exr"
        file.write_bytes(data)
        with OpenEXR.File(str(file)) as opened:
            return np.array(opened.channels()["RGB"].pixels, dtype=np.float32)
