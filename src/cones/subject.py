"""A subject: a few photos of one thing, its noun and the word that names it.

Photos arrive as people have them (rotated phones, transparent stickers, scans) and leave as RGB
squares in [0, 1]. One bad file is never skipped in silence: every file that cannot be used is
listed with its reason. Nothing here knows a model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from cones.errors import SubjectError

MOST_PHOTOS = 20
MIN_SIDE = 32
MOST_PIXELS = 64_000_000
MOST_LETTERS = 64  # of an identifier or a noun
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # no EPS: it starts Ghostscript
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
UNREADABLE = (".heic", ".heif")  # phones write them: better refused than skipped
VOWEL = re.compile(r"hour|honest|heir|(?!uni|use|eu|ute|one|once|ufo|ukulele)[aeiou]")
PLURAL = re.compile(r".*(?<![sui])s|people|(wo)?men|children|teeth|feet|mice|geese")
SINGULARS = ("lens", "gas", "canvas", "atlas", "series", "species", "christmas")
Photo: TypeAlias = str | Path | Image.Image
Source: TypeAlias = Photo | Sequence[Photo]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is to be found: photos and the words that call it (c^X of Sec. 2).

    Attributes:
        pixels: RGB in [0, 1].
        noun: Category, such as ``cat`` or ``teddy bear``.
        identifier: One word without spaces that will mean this subject.
        masks: Where the subject is on each photo, in [0, 1]; None means everywhere.

    Raises:
        SubjectError: Photos or masks are not in [0, 1] or do not fit, or a word is unusable.

    Example:
        >>> Subject(torch.zeros(1, 3, 8, 8), "cat").prompt
        'a V* cat'
    """

    pixels: Float[Tensor, "n 3 h w"]
    noun: str
    identifier: str = "V*"
    masks: Float[Tensor, "n 1 h w"] | None = None

    def __post_init__(self) -> None:
        """Check photos and words once, here."""
        check_words(self.identifier, self.noun)
        n, _, *side = self.pixels.shape if self.pixels.ndim == 4 else (0, 0)
        for name, images, channels in (("pixels", self.pixels, 3), ("masks", self.masks, 1)):
            if images is None:
                continue
            unit = images.is_floating_point() and bool(((images >= 0) & (images <= 1)).all())
            if not n or images.shape != (n, channels, *side) or not unit:
                raise SubjectError(
                    f"{name} are {images.dtype} of shape {tuple(images.shape)}; expected floats "
                    f"in [0, 1], (n, {channels}, height, width), n at least 1, masks as large as "
                    "pixels; read photos with read_pixels"
                )

    def __len__(self) -> int:
        """Count the photos."""
        return len(self.pixels)

    @classmethod
    def from_folder(
        cls, source: Source, *, noun: str, identifier: str = "V*", size: int
    ) -> "Subject":
        """Read a subject from a folder, a file or several; see :func:`read_pixels`."""
        check_words(identifier, noun)
        return cls(read_pixels(source, size=size), noun, identifier)

    @property
    def prompt(self) -> str:
        """Say c^X of Sec. 2, ``a V* cat``."""
        return with_article(f"{self.identifier} {self.noun}")


def check_words(identifier: str, noun: str) -> None:
    """Refuse words that no prompt could hold, by a SubjectError."""
    for name, word in (("identifier", identifier), ("noun", noun)):
        spaced = name == "identifier" and word.split() != [word]
        if not word.strip() or len(word) > MOST_LETTERS or not word.isprintable() or spaced:
            raise SubjectError(
                f"the {name} is {word[:80]!a}; expected 1 to {MOST_LETTERS} printable letters, "
                "and no space in an identifier; choose for example 'V*' and 'cat'"
            )


def with_article(words: str) -> str:
    """Put ``a`` or ``an`` before a singular: ``an apple``, ``a V* cat``, ``V* sunglasses``."""
    last = words.split()[-1].lower()
    if PLURAL.fullmatch(last) and last not in SINGULARS:
        return words
    return f"{'an' if VOWEL.match(words.lower()) else 'a'} {words}"


def read_pixels(source: Source, *, size: int) -> Float[Tensor, "n 3 size size"]:
    """Read photos as upright RGB squares in [0, 1].

    ``source`` is a folder, one photo, or several: paths or PIL images. The centre square is kept
    and resized to ``size`` pixels a side. Transparency falls on white; of an animation the first
    frame is read. Files of a folder come in the order of their names. A SubjectError lists all
    photos that cannot be used.
    """
    photos = _photos(source)
    if not 0 < len(photos) <= MOST_PHOTOS:
        raise SubjectError(
            f"found {len(photos)} photos; expected 1 to {MOST_PHOTOS}, files ending in "
            f"{', '.join(SUFFIXES)}; choose the best"
        )
    squares, bad = [], []
    for k, photo in enumerate(photos):
        try:
            squares.append(_square(photo, size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            bad.append(f"  {getattr(photo, 'name', f'photo {k}')}: {error}")
    if bad:
        listing = "\n".join(bad)
        raise SubjectError(
            f"found {len(bad)} of {len(photos)} photos that cannot be used:\n{listing}\n"
            f"expected {', '.join(FORMATS)} of at least {MIN_SIDE} px a side; replace these"
        )
    return torch.stack(squares)


def _photos(source: Source) -> list[Path | Image.Image]:
    """List the photos; in a folder, whatever is named like one."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        files = sorted(f for f in Path(source).iterdir() if not f.name.startswith("."))
        return [f for f in files if f.suffix.lower() in SUFFIXES + UNREADABLE]
    several = [source] if isinstance(source, str | Path | Image.Image) else source
    return [p if isinstance(p, Image.Image) else Path(p) for p in several]


def _square(photo: Path | Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    if isinstance(photo, Path):
        if not photo.is_file():  # opening a FIFO would wait for ever
            raise ValueError("no such file, a broken link or no regular file")
        with Image.open(photo, formats=FORMATS) as opened:
            return _square(opened, size)
    if min(photo.size) < MIN_SIDE or photo.width * photo.height > MOST_PIXELS:
        raise ValueError(
            f"{photo.width} x {photo.height} px; expected at least {MIN_SIDE} px a side, at most "
            f"{MOST_PIXELS // 10**6} megapixels"
        )
    upright = ImageOps.exif_transpose(photo)
    if upright.mode == "F" or upright.mode.startswith("I"):  # whose range Pillow would clip
        raise ValueError("16-bit or floating-point pixels; save it with 8 bits a channel")
    if upright.has_transparency_data:
        paper = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(paper, upright.convert("RGBA"))
    square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1)
