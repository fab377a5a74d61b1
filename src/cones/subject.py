"""A subject: a few photos of one thing, its noun and the word that names it.

Photos arrive as people have them (rotated phones, transparent stickers, scans) and leave as RGB
squares in [0, 1]. One bad file is never skipped in silence: every file that cannot be used is
listed with its reason. Nothing here knows a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, features
from torch import Tensor

from cones.errors import SubjectError

MOST_PHOTOS = 20
MIN_SIDE = 32
MOST_PIXELS = 64_000_000
MOST_LETTERS = 64  # of an identifier or a noun
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
) | {".heic", ".heif"}
PHOTO: TypeAlias = str | Path | Image.Image
Source: TypeAlias = PHOTO | Sequence[PHOTO]
SINGULAR = frozenset(("lens", "gas", "canvas", "atlas", "series", "species", "christmas"))
PLURAL = frozenset(("people", "men", "women", "children", "teeth", "feet", "mice", "geese"))


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
    """

    pixels: Float[Tensor, "n 3 h w"]
    noun: str
    identifier: str = "V*"
    masks: Float[Tensor, "n 1 h w"] | None = None

    def __post_init__(self) -> None:
        """Check photos and words once, here."""
        _require_unit("pixels", self.pixels, channels=3)
        if self.masks is not None:
            _require_unit("masks", self.masks, channels=1)
            if self.masks[:, 0].shape != self.pixels[:, 0].shape:
                raise SubjectError(
                    f"masks are {tuple(self.masks.shape)} for photos {tuple(self.pixels.shape)}; "
                    "expected one mask of the same size per photo; resize them together"
                )
        check_words(self.identifier, self.noun)

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
    """Refuse words that no prompt could hold.

    Raises:
        SubjectError: The identifier is not one word, or one of the two is empty, longer than 64
            letters or has characters that cannot be printed.
    """
    for name, word in (("identifier", identifier), ("noun", noun)):
        if not word.strip() or len(word) > MOST_LETTERS or not word.isprintable():
            raise SubjectError(
                f"the {name} is {word[:80]!r}; expected 1 to {MOST_LETTERS} printable letters; "
                "choose a short word, such as 'cat'"
            )
    if identifier.split() != [identifier]:
        raise SubjectError(
            f"the identifier is {identifier!r}; expected one word without spaces; use for "
            "example 'V*'"
        )


def with_article(words: str) -> str:
    """Put ``a`` or ``an`` before a singular: ``an apple``, ``a V* cat``, ``V* sunglasses``."""
    first, last = words.split()[0].lower(), words.split()[-1].lower()
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if last in PLURAL or (plural and last not in SINGULAR):
        return words
    vowel = first.startswith(("a", "e", "i", "o", "u", "hour", "honest", "heir"))
    spoken_you = first.startswith(("uni", "use", "eu", "ute", "one", "once", "ufo", "ukulele"))
    return f"{'an' if vowel and not spoken_you else 'a'} {words}"


def read_pixels(source: Source, *, size: int) -> Float[Tensor, "n 3 size size"]:
    """Read photos as upright RGB squares in [0, 1].

    The centre square is kept and resized. Transparency falls on white; of an animation the first
    frame is read. Files of a folder come in the order of their names.

    Args:
        source: A folder, one photo, or several: paths or PIL images.
        size: Side of the squares, in pixels.

    Raises:
        SubjectError: Nothing to read, too many photos, or photos that cannot be used; all of
            these are listed.
    """
    if size < 1:
        raise SubjectError(f"size is {size}; expected a side of 1 pixel or more; raise it")
    photos = _photos(source)
    if not 0 < len(photos) <= MOST_PHOTOS:
        raise SubjectError(
            f"found {len(photos)} photos; expected 1 to {MOST_PHOTOS} files ending in "
            f"{', '.join(sorted(SUFFIXES))}; choose the best"
        )
    squares, bad = [], []
    for k, photo in enumerate(photos):
        try:
            squares.append(_read(photo, size))
        except (OSError, ValueError, SyntaxError, *_BOMBS) as error:
            name = f"photo {k}" if isinstance(photo, Image.Image) else photo.name
            bad.append(f"  {name}: {_reason(error)}")
    if bad:
        listing = "\n".join(bad)
        raise SubjectError(
            f"found {len(bad)} of {len(photos)} photos that cannot be used:\n{listing}\n"
            f"expected pictures of at least {MIN_SIDE} px a side; replace or remove these"
        )
    return torch.stack(squares)


_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def _photos(source: Source) -> list[Path | Image.Image]:
    """List the photos; in a folder, whatever is named like one."""
    if isinstance(source, Image.Image):
        return [source]
    if not isinstance(source, str | Path):
        return [p if isinstance(p, Image.Image) else Path(p) for p in source]
    path = Path(source)
    if not path.exists():
        raise SubjectError(
            f"found nothing at {str(path)!r}; expected a folder of photos; check the path"
        )
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


def _read(photo: Path | Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    if isinstance(photo, Image.Image):
        return _square(photo, size)
    if not photo.is_file():  # opening a FIFO would wait for ever
        raise ValueError(
            "a broken link, or no regular file"
            if photo.is_symlink() or photo.exists()
            else "no such file"
        )
    with Image.open(photo, formats=_formats(photo)) as opened:
        return _square(opened, size)


def _square(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    width, height = image.size
    side = min(width, height)
    if side < MIN_SIDE or width * height > MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} px; expected at least {MIN_SIDE} px a side and at most "
            f"{MOST_PIXELS // 10**6} megapixels"
        )
    image = _rgb(ImageOps.exif_transpose(image))
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit greys, which Pillow would clip to white
        grey = np.asarray(image, dtype=np.int64).clip(0, 65535)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown; save it as 8-bit PNG")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _formats(photo: Path) -> list[str]:
    """List what Pillow may take a file for: never EPS, which would start Ghostscript."""
    formats = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
    if features.check("avif"):
        formats.append("AVIF")
    if photo.suffix.lower() in {".heic", ".heif"}:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise ValueError("a HEIC photo; install pillow-heif, or save it as JPEG") from None
        register_heif_opener()
        formats.append("HEIF")
    return formats


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, whatever its name says"
    return str(error) or type(error).__name__


def _require_unit(name: str, images: Tensor, *, channels: int) -> None:
    """Refuse anything but a batch of pictures in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != channels or not len(images):
        raise SubjectError(
            f"{name} have shape {tuple(images.shape)}; expected (n, {channels}, height, width) "
            "with at least one picture; use read_pixels"
        )
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise SubjectError(
            f"{name} are {images.dtype} outside [0, 1]; expected floats in [0, 1]; divide 8-bit "
            "values by 255"
        )
