"""Other colours of a sprite: its shades, in a coat of the colour that a caption can name."""

import numpy as np
from PIL import Image

COLOURS = {
    "black": (0.13, 0.13, 0.14),
    "blue": (0.16, 0.32, 0.78),
    "brown": (0.45, 0.27, 0.14),
    "green": (0.16, 0.55, 0.22),
    "grey": (0.5, 0.5, 0.52),
    "orange": (0.93, 0.52, 0.13),
    "pink": (0.94, 0.55, 0.7),
    "purple": (0.48, 0.22, 0.65),
    "red": (0.8, 0.12, 0.12),
    "white": (0.95, 0.95, 0.94),
    "yellow": (0.95, 0.83, 0.2),
}
COATS = ("black", "brown", "grey", "orange", "white")
RECOLOURED = {
    **dict.fromkeys(("cat", "dog", "horse", "rabbit"), COATS),
    **dict.fromkeys(("backpack", "ball", "cap", "car", "cup", "hat", "shoe"), tuple(COLOURS)),
}
"""Nouns that are shown in other colours, and in which."""
_LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)
_CONTRAST = 0.7  # of the shades that is kept


def recoloured(sprite: Image.Image, colour: str) -> Image.Image:
    """Give a sprite the colour: shades keep their order, alpha stays.

    The middle shade of the sprite becomes the colour itself; darker ones go towards black and
    lighter ones towards white.

    Args:
        sprite: RGBA.
        colour: One of :data:`COLOURS`.
    """
    pixels = np.asarray(sprite, dtype=np.float32) / 255
    shade = pixels[..., :3] @ _LUMA
    seen = pixels[..., 3] > 0.5
    middle = float(np.median(shade[seen])) if seen.any() else 0.5
    offset = _CONTRAST * (shade - middle)[..., None]
    coat = np.array(COLOURS[colour], dtype=np.float32)
    darker = coat * (1 + np.minimum(offset, 0))
    painted = darker + (1 - darker) * np.maximum(offset, 0)
    out = np.concatenate([painted, pixels[..., 3:]], axis=-1)
    return Image.fromarray((255 * np.clip(out, 0, 1)).round().astype(np.uint8), "RGBA")
