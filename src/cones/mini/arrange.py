"""Arrange the things of a scene: side by side, one before another, one on another; and light it.

Sizes follow the things' real ones, drawn nearer to each other: a cup beside a sofa would be four
pixels wide. A thing stands with its lower edge on the ground and throws a contact shadow. Sizes
and places keep to the autoencoder's cells: a thing half a cell further has other latents, and a
small U-Net that had to learn every look at every shift would learn none of them.
"""

from collections.abc import Sequence
from math import exp, log

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from cones.mini.sprites import Background, Sprite

SPANS = {2: 0.52, 3: 0.36, 4: 0.28}  # long side of one of so many things, in shares of the width
NEARER = 0.35  # exponent on the ratio of real sizes
SMALLEST, LARGEST = 0.75, 1.3  # bounds of what becomes of that ratio
SUPPORTS = 1.3  # a thing holds what is smaller than itself by this factor
FRONT_FOOT = 0.95
CELL = 8  # pixels; 1 leaves sizes and places as they are


def relative(chosen: Sequence[Sprite]) -> list[float]:
    """Give the factor of each thing's size, from centimetres; 1 where a size is unknown."""
    known = [log(sprite.cm) for sprite in chosen if sprite.cm]
    middle = sum(known) / len(known) if known else 0.0
    factors = [exp(NEARER * (log(s.cm) - middle)) if s.cm else 1.0 for s in chosen]
    return [min(LARGEST, max(SMALLEST, factor)) for factor in factors]


def holds(upper: Sprite, lower: Sprite) -> bool:
    """Tell whether one thing can stand on another: it has a place for it, and is larger."""
    return bool(lower.top and upper.cm and lower.cm and lower.cm > SUPPORTS * upper.cm)


def stand(
    canvas: Image.Image,
    chosen: Sequence[Sprite],
    background: Background,
    rng: np.random.Generator,
    cell: int = CELL,
) -> list[Image.Image]:
    """Stand the sprites side by side, left to right; give what each covers."""
    count, covered = len(chosen), []
    for place, (sprite, factor) in enumerate(zip(chosen, relative(chosen), strict=True)):
        if count == 1:
            size, centre = 0.5 + 0.35 * rng.random(), 0.4 + 0.2 * rng.random()
        else:
            size = (0.9 + 0.2 * rng.random()) * SPANS[count] * factor
            centre = (place + 0.5 + 0.16 * (rng.random() - 0.5)) / count
        low, high = max(0.72, background.ground_from), 0.96
        foot = low + (high - low) * rng.random() if size < 0.7 else 0.9 + 0.07 * rng.random()
        covered.append(paste(canvas, sprite, (size, centre), foot, rng, cell=cell))
    return covered


def stand_before(
    canvas: Image.Image,
    front: Sprite,
    far: Sprite,
    background: Background,
    rng: np.random.Generator,
    cell: int = CELL,
) -> None:
    """Stand one thing far away and another before it, which may hide a part of it."""
    nearer, farther = relative([front, far])
    horizon = min(0.9, background.ground_from + 0.08)
    paste(canvas, far, (0.38 * farther, 0.3 + 0.4 * rng.random()), horizon, rng, cell=cell)
    spot = (0.45 * nearer, 0.3 + 0.4 * rng.random())
    paste(canvas, front, spot, FRONT_FOOT, rng, cell=cell)


def stand_on(
    canvas: Image.Image,
    upper: Sprite,
    lower: Sprite,
    rng: np.random.Generator,
    cell: int = CELL,
) -> None:
    """Stand one thing on another that :func:`holds` it."""
    size, centre = 0.5 + 0.12 * rng.random(), 0.45 + 0.1 * rng.random()
    foot = 0.9 + 0.06 * rng.random()
    covered = np.asarray(paste(canvas, lower, (size, centre), foot, rng, cell=cell)) > 0
    rows, columns = np.nonzero(covered)
    height = rows.max() + 1 - rows.min()
    top = (rows.max() + 1 - (lower.top or 0.0) * height) / canvas.width
    spot = (0.36, (columns.min() + columns.max() + 1) / 2 / canvas.width)
    paste(canvas, upper, spot, top, rng, cell=max(1, cell // 2), shadow=False)


def paste(
    canvas: Image.Image,
    sprite: Sprite,
    spot: tuple[float, float],
    foot: float,
    rng: np.random.Generator,
    *,
    cell: int = 1,
    shadow: bool = True,
) -> Image.Image:
    """Put a sprite on ``canvas``: long side and centre in shares of the width, lower edge at foot.

    A soft ellipse under the lower edge is the contact shadow. The long side, the left and the
    lower edge are multiples of ``cell`` pixels.

    Returns:
        What the sprite covers, shadow left out: grey, as large as the canvas, white where it is
        opaque.
    """
    (size, centre), side = spot, canvas.width
    image = sprite.image
    scale = max(cell, _nearest(size * side, cell)) / max(image.size)
    width, height = (max(2, round(long * scale)) for long in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not sprite.drawn:
        image = ImageEnhance.Brightness(image).enhance(0.8 + 0.35 * rng.random())
    left, bottom = _nearest(centre * side - width / 2, cell), _nearest(foot * side, cell)
    bottom = min(bottom, side - cell) if cell > 1 else bottom
    if shadow:
        shade = _shadow(side, left + width / 2, bottom, width)
        canvas.paste((20, 20, 20), (0, 0), Image.fromarray(shade))
    canvas.paste(image, (left, bottom - height), image)
    covered = Image.new("L", (side, side))
    covered.paste(image.getchannel("A"), (left, bottom - height))
    return covered


def _nearest(length: float, cell: int) -> int:
    return round(length / cell) * cell


def _shadow(side: int, centre: float, bottom: int, width: int) -> UInt8[np.ndarray, "side side"]:
    rows, columns = np.mgrid[0:side, 0:side]
    flat = max(1.5, 0.1 * width)
    distance = ((columns - centre) / (0.5 * width)) ** 2 + ((rows - bottom + 1) / flat) ** 2
    return (110 * np.clip(1.2 - distance, 0, 1)).astype(np.uint8)


def lit(canvas: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    """Multiply red, green and blue: the light of :data:`cones.mini.world.LIGHTS`."""
    pixels = np.asarray(canvas, dtype=np.float32) * np.asarray(gains, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))
