"""A sphere tracer for toys: solids with paints to a cropped picture with transparency.

Rays are parallel, so each part is traced alone, only where its bounds can be seen, and the
nearest part wins. Two rays a pixel side find the surface; ambient occlusion and soft self shadow
are worked out once a pixel. Same parts, same view: same bits. No ground and no background.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from pretraining.world.colours import Paint, painted
from pretraining.world.solids import Points, Solid, Triple, dot, length, turn, vector

torch.set_flush_denormal(True)  # numbers near 0 else slow some processors a hundredfold

Part = tuple[Solid, Paint]
# A hit is this close. Rays that run along a face are still on their way in after all rounds;
# they count as hits when near enough and nearing.
_TOUCH, _ROUNDS, _GRAZE = 0.004, 6, 0.02


@torch.inference_mode()
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
    axes = turn("x", pitch) @ turn("y", yaw)
    solids = [solid for solid, _ in parts]
    depth, owner, start = _trace_all(solids, axes, 2 * size)
    seen = owner >= 0
    p, owner = start[:, seen] + axes[2][:, None] * depth[seen], owner[seen]
    normal, colour = torch.zeros_like(p), torch.zeros(p.shape[1], 3)
    for i, (solid, paint) in enumerate(parts):
        mine = (owner == i).nonzero()[:, 0]
        normal[:, mine] = _normal(solid, p[:, mine])
        colour[mine] = painted(paint, p[:, mine])
    towards = axes.T @ vector(light)
    towards = towards / towards.norm()
    row, column = seen.nonzero(as_tuple=True)
    pixel = (row // 2 * len(seen[0]) + column // 2).numpy()
    _, first, pixel = np.unique(pixel, return_index=True, return_inverse=True)
    soft = _softness(solids, p[:, first], normal[:, first], towards)[:, pixel]
    rgb = _lit(colour, normal, soft, towards, axes[2][:, None])
    image = torch.zeros(*seen.shape, 4)
    image[seen, :3] = (rgb * torch.tensor(tint)).clamp(0, 1) ** (1 / 1.15)
    image[seen, 3] = 1
    return _shrink(image, size)


def _trace_all(
    solids: Sequence[Solid], axes: Tensor, rays: int
) -> tuple[Float[Tensor, "h w"], Int[Tensor, "h w"], Float[Tensor, "3 h w"]]:
    """Return for every ray how near its surface is, whose it is (-1: none), and its origin.

    The rows of `axes` point right, up and towards the camera; the toy fills `rays` rays.
    """
    # How far each part reaches right, up, near, left, down and far.
    reach = np.stack([solid.support(torch.cat([axes, -axes]).T) for solid in solids]).astype(float)
    right, up, _, left, down, _ = reach.max(0)
    step = max(right + left, up + down) / rays
    x = torch.arange(math.ceil((right + left) / step)) * step + (step / 2 - left)
    y = (up - step / 2) - torch.arange(math.ceil((up + down) / step)) * step
    start = axes[0][:, None, None] * x + axes[1][:, None, None] * y[:, None]
    depth = torch.full(start.shape[1:], -torch.inf)
    owner = torch.full(start.shape[1:], -1)
    for i, (solid, (east, north, near, west, south, far)) in enumerate(
        zip(solids, reach, strict=True)
    ):
        rows = slice(int((up - north) / step), math.ceil((up + south) / step))
        columns = slice(int((left - west) / step), math.ceil((left + east) / step))
        origins, nearest = start[:, rows, columns], depth[rows, columns]
        found = _trace(solid, origins.flatten(1), axes[2][:, None], float(near), -float(far))
        found = found.reshape(nearest.shape)
        owner[rows, columns][found > nearest] = i
        nearest.clamp_(min=found)
    return depth, owner, start


def _trace(solid: Solid, origins: Points, back: Tensor, near: float, far: float) -> Tensor:
    """Return how near the surface is along `back` from each origin; minus infinity: a miss."""
    depth = torch.full((origins.shape[1],), -torch.inf)
    alive, z = torch.arange(len(depth)), torch.full_like(depth, near)
    p, gap = origins + near * back, depth
    for _ in range(_ROUNDS):
        for _ in range(3):
            gap = solid.distance(p)
            z = z - gap
            p = torch.addcmul(p, gap, back, value=-1)
        touched = gap < _TOUCH
        depth[alive[touched]] = z[touched]
        go = (~touched & (z > far)).nonzero()[:, 0]
        if not len(go):
            return depth
        alive, z, p, gap = alive[go], z[go], p[:, go], gap[go]
    creeping = (solid.distance(p) < gap) & (gap < _GRAZE)
    depth[alive[creeping]] = z[creeping]
    return depth


def _normal(solid: Solid, p: Points) -> Points:
    """Return unit normals from four taps around each point."""
    taps = torch.tensor([[1.0, -1, -1, 1], [-1, -1, 1, 1], [-1, 1, -1, 1]])
    around = (p[:, None] + 0.006 * taps[:, :, None]).flatten(1)
    normal = taps @ solid.distance(around).reshape(4, -1)
    return normal / length(normal).clamp_min(1e-6)


def _softness(solids: Sequence[Solid], p: Points, normal: Points, towards: Tensor) -> Points:
    """Return ambient occlusion and soft shadow, both 1 in the open."""

    def scene(q: Points) -> Tensor:
        return functools.reduce(torch.minimum, (solid.distance(q) for solid in solids))

    reach = torch.tensor([0.08, 0.2, 0.4])[:, None]
    gaps = scene((p[:, None] + normal[:, None] * reach).flatten(1)).reshape(3, -1)
    occlusion = 1 - 0.21 * (1 - gaps / reach).clamp(0, 1).sum(0)
    shadow = torch.ones_like(occlusion)
    lifted, t = p + normal * 0.02, torch.full_like(shadow, 0.06)
    for _ in range(5):
        gap = scene(lifted + t * towards)
        shadow = torch.minimum(shadow, (6 * gap / t).clamp(0, 1))
        t = t + gap.clamp(0.08, 0.35)
    return torch.stack([occlusion, shadow])


def _lit(colour: Tensor, normal: Points, soft: Points, towards: Tensor, back: Tensor) -> Tensor:
    """Return colours under sky and light, with a gloss."""
    occlusion, shadow = soft
    facing = dot(normal, towards).clamp_min(0) * (0.35 + 0.65 * shadow)
    sky = 0.5 + 0.5 * normal[1]
    halfway = (towards + back) / (towards + back).norm()
    gloss = dot(normal, halfway).clamp_min(0) ** 30 * 0.25 * shadow
    return colour * ((0.30 + 0.22 * sky) * occlusion + 0.62 * facing)[:, None] + gloss[:, None]


def _shrink(image: Float[Tensor, "rows columns 4"], size: int) -> UInt8[np.ndarray, "h w 4"]:
    """Crop to what is opaque and shrink to `size`; colours are weighted by opacity."""
    layers = [Image.fromarray(layer) for layer in image.permute(2, 0, 1).contiguous().numpy()]
    bounds = Image.fromarray(image[..., 3].numpy() > 0).getbbox()
    layers = [layer.crop(bounds) for layer in layers]
    scale = size / max(layers[0].size)
    width, height = (max(2, round(side * scale)) for side in layers[0].size)
    out = np.stack(
        [layer.resize((width, height), Image.Resampling.LANCZOS) for layer in layers], -1
    )
    out[..., :3] /= out[..., 3:].clip(1e-3, 1)
    return (out.clip(0, 1) * 255).round().astype(np.uint8)
