"""Painted backgrounds: places that no panorama shows, and plain ones. Made here, CC0.

Every painter gives RGB in [0, 1], the row of the horizon, and the row from which things can stand.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Rgb = tuple[float, float, float]
Painted = tuple[Float[np.ndarray, "side side 3"], float, float]


def noise(
    rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Blend random values on a grid of ``cells`` into smooth noise in [0, 1]."""
    grid = rng.random((cells[0] + 2, cells[1] + 2))
    rows = np.linspace(0, cells[0], height, endpoint=False)
    columns = np.linspace(0, cells[1], width, endpoint=False)
    top, left = rows.astype(int), columns.astype(int)
    dy = ((1 - np.cos(np.pi * (rows - top))) / 2)[:, None]
    dx = ((1 - np.cos(np.pi * (columns - left))) / 2)[None]
    upper = grid[top][:, left] * (1 - dx) + grid[top][:, left + 1] * dx
    lower = grid[top + 1][:, left] * (1 - dx) + grid[top + 1][:, left + 1] * dx
    return upper * (1 - dy) + lower * dy


def _colour(rng: np.random.Generator, base: Rgb, spread: float = 0.06) -> np.ndarray:
    """Shift a colour, in brightness more than in tint."""
    lighter, tint = spread * (2 * rng.random() - 1), 0.3 * spread * (2 * rng.random(3) - 1)
    return np.clip(np.array(base) + lighter + tint, 0, 1)


def _blend(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    return low + (high - low) * share[..., None]


def _sky(rng: np.random.Generator, side: int, top: Rgb, low: Rgb, clouds: float) -> np.ndarray:
    down = np.broadcast_to(np.linspace(0, 1, side)[:, None], (side, side))
    sky = _blend(_colour(rng, top), _colour(rng, low), down)
    veil = noise(rng, side, side, (5, 3)) * 0.6 + noise(rng, side, side, (14, 7)) * 0.4
    return _blend(sky, np.full(3, 0.97), clouds * np.clip(2.4 * veil - 1, 0, 1))


def _ground(
    rng: np.random.Generator, side: int, horizon: int, near: Rgb, grain: float
) -> np.ndarray:
    """Give a floor from the horizon down: paler far away, grained, finer towards the horizon."""
    height = side - horizon
    colour = _colour(rng, near)
    depth = np.linspace(0.25, 0, height)
    floor = _blend(colour, np.full(3, 0.75), np.broadcast_to(depth[:, None], (height, side)))
    rough = noise(rng, height, side, (max(2, height // 3), 16)) - 0.5
    return np.clip(floor + grain * rough[..., None], 0, 1)


def _hills(
    rng: np.random.Generator, picture: np.ndarray, horizon: int, base: Rgb, high: float
) -> None:
    side = len(picture)
    line = noise(rng, 2, side, (1, int(rng.integers(3, 7))))[0]
    top = horizon - side * high * (0.15 + line)
    rows = np.arange(side)[:, None]
    inside = (rows >= top[None]) & (rows < horizon)
    picture[inside] = _colour(rng, base)


def _open(
    rng: np.random.Generator, side: int, near: Rgb, hills: Rgb | None, grain: float = 0.08
) -> Painted:
    """Paint sky, perhaps hills, and a floor."""
    horizon = int(side * rng.uniform(0.33, 0.46))
    picture = _sky(rng, side, (0.35, 0.58, 0.88), (0.82, 0.9, 0.97), rng.uniform(0.2, 0.9))
    if hills:
        _hills(rng, picture, horizon, hills, rng.uniform(0.05, 0.16))
    picture[horizon:] = _ground(rng, side, horizon, near, grain)
    return picture, horizon / side, horizon / side + 0.15


def grass(rng: np.random.Generator, side: int) -> Painted:
    """A lawn under a sky with hills."""
    return _open(rng, side, (0.3, 0.55, 0.16), (0.25, 0.42, 0.25), 0.16)


def snow(rng: np.random.Generator, side: int) -> Painted:
    """Snow under a pale sky."""
    picture, horizon, ground = _open(rng, side, (0.92, 0.94, 0.97), (0.75, 0.79, 0.85), 0.04)
    rows = int(horizon * side)
    picture[:rows] = 0.6 * picture[:rows] + 0.4 * 0.85
    for _ in range(int(rng.integers(0, 120))):
        picture[rng.integers(side), rng.integers(side)] = 1.0
    return picture, horizon, ground


def desert(rng: np.random.Generator, side: int) -> Painted:
    """Dunes of sand under a clear sky."""
    picture, horizon, ground = _open(rng, side, (0.85, 0.66, 0.4), (0.74, 0.52, 0.3), 0.05)
    first = int(horizon * side)
    waves = np.sin(np.arange(side)[None] * 0.04 + np.linspace(0, 9, side - first)[:, None] ** 1.5)
    picture[first:] = np.clip(picture[first:] + 0.035 * waves[..., None], 0, 1)
    return picture, horizon, ground


def beach(rng: np.random.Generator, side: int) -> Painted:
    """Sea, a line of foam, sand."""
    picture, horizon, _ = _open(rng, side, (0.88, 0.78, 0.56), None, 0.06)
    first = int(horizon * side)
    shore = int(side * rng.uniform(0.52, 0.62))
    sea = _blend(
        _colour(rng, (0.1, 0.35, 0.6)),
        _colour(rng, (0.35, 0.7, 0.75)),
        np.broadcast_to(np.linspace(0, 1, shore - first)[:, None], (shore - first, side)),
    )
    picture[first:shore] = sea + 0.05 * noise(rng, shore - first, side, (9, 6))[..., None]
    wave = (shore + 3 * np.sin(np.linspace(0, rng.uniform(4, 12), side))).astype(int)
    for column, row in enumerate(wave):
        picture[shore - 3 : row, column] = picture[shore - 4, column]
        picture[row : row + 2, column] = 0.97
    return np.clip(picture, 0, 1), horizon, shore / side + 0.06


def lake(rng: np.random.Generator, side: int) -> Painted:
    """Hills mirrored in still water, a strip of shore in front."""
    picture, horizon, _ = _open(rng, side, (0.3, 0.5, 0.2), (0.2, 0.36, 0.28), 0.1)
    first, shore = int(horizon * side), int(0.86 * side)
    mirrored = picture[:first][::-1][: shore - first]
    water = np.concatenate([mirrored, np.repeat(mirrored[-1:], side, axis=0)])[: shore - first]
    ripples = 0.05 * (noise(rng, shore - first, side, (20, 4)) - 0.5)
    picture[first:shore] = 0.8 * water + 0.2 * np.array((0.2, 0.4, 0.6)) + ripples[..., None]
    return np.clip(picture, 0, 1), horizon, 0.9


def road(rng: np.random.Generator, side: int) -> Painted:
    """A road with a dashed line, running to the horizon."""
    picture, horizon, _ = _open(rng, side, (0.42, 0.5, 0.25), (0.35, 0.42, 0.35), 0.1)
    first = int(horizon * side)
    middle, wide = side * rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.6)
    asphalt = _colour(rng, (0.33, 0.33, 0.35))
    for row in range(first, side):
        near = (row - first + 1) / (side - first)
        half = side * wide * near
        centre = middle + (side / 2 - middle) * near
        across = np.abs(np.arange(side) - centre)
        picture[row, across < half] = asphalt + 0.03 * rng.random()
        picture[row, (across < half) & (across > 0.93 * half)] = 0.9
        if int(8 / (near + 0.15)) % 2 == 0:
            picture[row, across < 0.025 * half + 0.5] = 0.92
    return np.clip(picture, 0, 1), horizon, horizon + 0.17


def night(rng: np.random.Generator, side: int) -> Painted:
    """A dark field under stars, sometimes with a moon."""
    horizon = int(side * rng.uniform(0.48, 0.56))
    picture = _sky(rng, side, (0.02, 0.03, 0.09), (0.08, 0.11, 0.24), 0.0)
    for _ in range(int(rng.integers(40, 110))):
        picture[rng.integers(horizon), rng.integers(side)] = rng.uniform(0.5, 1)
    if rng.random() < 0.6:
        rows, columns = np.mgrid[0:side, 0:side]
        x, y, radius = side * rng.uniform(0.1, 0.9), side * rng.uniform(0.08, 0.3), side * 0.05
        picture[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = (0.95, 0.94, 0.85)
    _hills(rng, picture, horizon, (0.05, 0.06, 0.09), 0.1)
    floor = _ground(rng, side, horizon, (0.08, 0.1, 0.09), 0.04)
    picture[horizon:] = 0.45 * floor
    return np.clip(picture, 0, 1), horizon / side, horizon / side + 0.11


def _wall(rng: np.random.Generator, side: int, foot: int) -> np.ndarray:
    tones = ((0.75, 0.82, 0.74), (0.86, 0.83, 0.74), (0.7, 0.74, 0.84), (0.82, 0.7, 0.72))
    colour = _colour(rng, tones[rng.integers(len(tones))], 0.08)
    rows, columns = np.mgrid[0:side, 0:side] / side
    light = 1.05 - 0.35 * np.hypot(columns - rng.uniform(0.2, 0.8), rows - 0.1)
    picture = np.clip(colour * light[..., None], 0, 1)
    picture[foot - max(2, side // 40) : foot] = _colour(rng, (0.92, 0.91, 0.88), 0.03)
    return picture


def wooden_floor(rng: np.random.Generator, side: int) -> Painted:
    """A wall and boards that run to one point."""
    foot = int(side * rng.uniform(0.44, 0.56))
    picture = _wall(rng, side, foot)
    wood = _colour(
        rng, ((0.6, 0.4, 0.22), (0.45, 0.25, 0.14), (0.72, 0.55, 0.35))[rng.integers(3)]
    )
    tones = 0.85 + 0.3 * rng.random(64)
    for row in range(foot, side):
        near = 0.12 + (row - foot) / (side - foot)
        across = (np.arange(side) - side / 2) / (near * side * 0.16)
        board = np.floor(across).astype(int)
        shade = tones[board % 64] * (0.75 + 0.3 * near)
        shade = np.where(across - board < 0.06, 0.6, shade)
        picture[row] = np.clip(wood * shade[:, None], 0, 1)
    return picture, foot / side, foot / side + 0.11


def room(rng: np.random.Generator, side: int) -> Painted:
    """A wall, perhaps with a window or a picture, and a carpet or tiles."""
    foot = int(side * rng.uniform(0.5, 0.64))
    picture = _wall(rng, side, foot)
    if rng.random() < 0.7:
        left, top = int(side * rng.uniform(0.08, 0.6)), int(side * rng.uniform(0.06, 0.16))
        wide, high = int(side * rng.uniform(0.2, 0.32)), int(side * rng.uniform(0.2, 0.28))
        picture[top - 2 : top + high + 2, left - 2 : left + wide + 2] = 0.93
        picture[top : top + high, left : left + wide] = _colour(rng, (0.65, 0.82, 0.95), 0.15)
    colour = _colour(rng, (0.5, 0.46, 0.45), 0.12)
    rows, columns = np.mgrid[foot:side, 0:side]
    near = 0.25 + (rows - foot) / (side - foot)
    tiles = (np.floor(2.5 / near) + np.floor((columns - side / 2) / (near * side * 0.16))) % 2
    strength = 0.12 * (rng.random() < 0.5)
    picture[foot:] = np.clip(colour + strength * (tiles - 0.5)[..., None], 0, 1)
    return picture, foot / side, foot / side + 0.1


def plain(rng: np.random.Generator, side: int) -> Painted:
    """One colour, lighter in the middle: a photographer's backdrop."""
    tones = ((0.82, 0.84, 0.85), (0.45, 0.47, 0.5), (0.86, 0.76, 0.66), (0.7, 0.78, 0.7))
    colour = _colour(rng, tones[rng.integers(len(tones))], 0.08)
    rows, columns = np.mgrid[0:side, 0:side] / side
    light = 1.12 - 0.5 * np.hypot(columns - 0.5, rows - 0.45)
    return np.clip(colour * light[..., None], 0, 1), 0.55, 0.63


PAINTERS: dict[str, Callable[[np.random.Generator, int], Painted]] = {
    maker.__name__.replace("_", " "): maker
    for maker in (beach, desert, grass, lake, night, plain, road, room, snow, wooden_floor)
}
