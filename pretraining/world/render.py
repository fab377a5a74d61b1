"""A sphere tracer for toys: solids with paints to a cropped picture with transparency.

A coarse pass finds the toy's frame and where each ray may start; a fine pass with two rays a
pixel side finds the surface; ambient occlusion and soft self shadow are worked out once a pixel.
Same parts, same view: same bits. It draws no ground and no background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pretraining.world.colours import Paint
from pretraining.world.solids import Points, Solid, Triple, turn, vector

torch.set_flush_denormal(True)  # numbers near 0 else slow some processors a hundredfold

Part = tuple[Solid, Paint]

_HALF, _CENTRE, _NEAR, _FAR = 1.5, (0.0, 1.0, 0.0), 1.0, 5.0
_COARSE = 36
_TOUCH = 0.005


@dataclass(frozen=True)
class _Camera:
    """Parallel rays: `matrix` turns toy space to camera space, `ray` points away from it."""

    matrix: Float[Tensor, "3 3"]
    ray: Float[Tensor, "3 1"]

    def origins(self, xs: Tensor, ys: Tensor) -> Points:
        """Return ray origins for camera coordinates `xs` (columns) and `ys` (rows)."""
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        flat = torch.stack([x.flatten(), y.flatten(), torch.full((x.numel(),), 3.0)])
        return self.matrix.T @ flat + vector(_CENTRE)


def render(
    parts: Sequence[Part],
    *,
    yaw: float,
    pitch: float,
    light: Triple,
    size: int = 104,
    tint: Triple = (1.0, 1.0, 1.0),
) -> UInt8[np.ndarray, "h w 4"]:
    """Draw a toy, cropped to it, long side `size` pixels, as RGBA.

    Args:
        parts: solids, each with its paint.
        yaw: degrees the toy is turned about y.
        pitch: degrees the camera looks down.
        light: direction to the light, in camera space.
        size: long side in pixels.
        tint: factor on red, green and blue.
    """
    matrix = turn("x", pitch) @ turn("y", yaw)
    camera = _Camera(matrix, matrix.T @ vector((0, 0, -1)))

    def scene(p: Points) -> Tensor:
        return torch.stack([solid(p) for solid, _ in parts]).amin(0)

    first = _coarse(scene, camera)
    xs, ys, start = _frame(first, 2 * size)
    origins = camera.origins(xs, ys)
    depth = _trace(scene, origins, camera.ray, start)
    hit = depth.isfinite().nonzero()[:, 0]
    p = origins[:, hit] + depth[hit] * camera.ray
    width = len(xs)
    rgb = _shade(parts, scene, p, (hit // width // 2) * width + hit % width // 2, camera, light)
    image = torch.zeros(len(origins[0]), 4)
    image[hit, :3] = (rgb * torch.tensor(tint)).clamp(0, 1) ** (1 / 1.15)
    image[hit, 3] = 1
    return _shrink(image.reshape(len(ys), width, 4), size)


def _coarse(scene: Solid, camera: _Camera) -> Float[Tensor, "m m"]:
    """Return the depth at which each coarse ray comes near the toy; infinite where it never does."""
    cell = 2 * _HALF / _COARSE
    at = (torch.arange(_COARSE) + 0.5) * cell - _HALF
    origins = camera.origins(at, -at)
    depth = torch.full((_COARSE**2,), _NEAR)
    first = torch.full_like(depth, torch.inf)
    active = torch.arange(len(depth))
    while len(active):
        gap = scene(origins[:, active] + depth[active] * camera.ray)
        near = gap < 0.75 * cell
        first[active[near]] = depth[active[near]]
        active = active[~near]
        depth[active] += gap[~near].clamp_min(0.25 * cell)
        active = active[depth[active] < _FAR]
    return first.reshape(_COARSE, _COARSE)


def _frame(first: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns, rows and starting depths of about `pixels` fine rays on the long side."""
    cell = 2 * _HALF / _COARSE
    seen = first.isfinite()
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    top, left = int(rows[0]), int(columns[0])
    high, wide = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    step = max(high, wide) * cell / pixels
    x = torch.arange(int(wide * cell / step) // 2 * 2) * step + step / 2
    y = torch.arange(int(high * cell / step) // 2 * 2) * step + step / 2
    start = first[(y / cell).long() + top][:, (x / cell).long() + left] - 0.75 * cell
    return x + left * cell - _HALF, _HALF - top * cell - y, start.flatten().clamp_min(_NEAR)


def _trace(scene: Solid, origins: Points, ray: Tensor, start: Tensor) -> Tensor:
    """Return each ray's depth at the surface; infinite where it misses."""
    depth = torch.full_like(start, torch.inf)
    alive = start.isfinite().nonzero()[:, 0]
    p, t = origins[:, alive] + start[alive] * ray, start[alive]
    for _ in range(40):
        gap = scene(p)
        t = t + gap * 0.9
        p = p + (gap * 0.9) * ray
        touched = gap < _TOUCH
        depth[alive[touched]] = t[touched]
        go = ~touched & (t < _FAR)
        alive, p, t = alive[go], p[:, go], t[go]
        if not len(alive):
            break
    return depth


def _shade(
    parts: Sequence[Part],
    scene: Solid,
    p: Points,
    pixel: Tensor,
    camera: _Camera,
    light: Triple,
) -> Float[Tensor, "n 3"]:
    """Return the colours of surface points; `pixel` says which points share a pixel."""
    owner = torch.stack([solid(p) for solid, _ in parts]).argmin(0)
    normal, colour = torch.zeros_like(p), torch.zeros(p.shape[1], 3)
    for i, (solid, paint) in enumerate(parts):
        mine = (owner == i).nonzero()[:, 0]
        if len(mine):
            normal[:, mine] = _normal(solid, p[:, mine])
            colour[mine] = paint(p[:, mine])
    towards = camera.matrix.T @ vector(light)
    towards = towards / towards.norm()
    count = p.shape[1]
    chosen = torch.full((int(pixel.max()) + 1,), count).scatter_reduce(
        0, pixel, torch.arange(count), "amin"
    )
    some = chosen[chosen < count]
    soft = torch.zeros(2, len(chosen))
    soft[:, chosen < count] = _softness(scene, p[:, some], normal[:, some], towards)
    occlusion, shadow = soft[:, pixel]
    facing = (normal * towards).sum(0).clamp_min(0) * (0.35 + 0.65 * shadow)
    sky = 0.5 + 0.5 * normal[1]
    halfway = towards - camera.ray
    halfway = halfway / halfway.norm()
    gloss = (normal * halfway).sum(0).clamp_min(0) ** 30 * 0.25 * shadow
    return colour * ((0.30 + 0.22 * sky) * occlusion + 0.62 * facing)[:, None] + gloss[:, None]


def _normal(solid: Solid, p: Points) -> Points:
    """Return unit normals from four taps around each point."""
    taps = torch.tensor([[1.0, -1, -1, 1], [-1, -1, 1, 1], [-1, 1, -1, 1]])
    around = (p[:, None] + 0.006 * taps[:, :, None]).flatten(1)
    normal = taps @ solid(around).reshape(4, -1)
    return normal / normal.square().sum(0).sqrt().clamp_min(1e-6)


def _softness(scene: Solid, p: Points, normal: Points, towards: Tensor) -> Tensor:
    """Return ambient occlusion and soft shadow, both 1 in the open."""
    occlusion, shadow = torch.ones(p.shape[1]), torch.ones(p.shape[1])
    for reach in (0.08, 0.2, 0.4):
        occlusion = occlusion - 0.21 * (1 - scene(p + normal * reach) / reach).clamp(0, 1)
    lifted, t = p + normal * 0.02, torch.full((p.shape[1],), 0.06)
    for _ in range(7):
        gap = scene(lifted + t * towards)
        shadow = torch.minimum(shadow, (6 * gap / t).clamp(0, 1))
        t = t + gap.clamp(0.05, 0.3)
    return torch.stack([occlusion, shadow])


def _shrink(image: Float[Tensor, "h w 4"], size: int) -> UInt8[np.ndarray, "h w 4"]:
    """Crop to what is opaque and shrink to `size`; colours are weighted by opacity."""
    solid = image[..., 3] > 0
    rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = size / max(image.shape[:2])
    shape = (max(2, round(image.shape[1] * scale)), max(2, round(image.shape[0] * scale)))
    layers = [
        np.asarray(Image.fromarray(layer).resize(shape, Image.Resampling.LANCZOS))
        for layer in image.permute(2, 0, 1).contiguous().numpy()
    ]
    out = np.stack(layers, -1)
    out[..., :3] /= out[..., 3:].clip(1e-3, 1)
    return (out.clip(0, 1) * 255).round().astype(np.uint8)
