"""A subject: a few pictures of one thing, its category noun and the word that names it.

Pictures arrive as people have them (rotated phones, transparent stickers, scans) and leave as
RGB squares in [0, 1]. One bad file is never skipped in silence: every file that cannot be used
is listed with its reason. Nothing here knows a model; prior pictures are in ``cones.prior``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from cones.errors import SubjectError

MAX_IMAGES = 20
MIN_SIDE = 32
SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
SUFFIXES |= {".heic", ".heif", ".avif"}
PROMPT_TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a picture of a {}",
    "a photograph of a {}",
)
Source: TypeAlias = str | Path | Iterable[str | Path]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is to be captured: pictures and the words that call it (c^X of Sec. 2).

    Attributes:
        images: RGB in [0, 1], square or not.
        noun: Category name, such as ``cat`` or ``teddy bear``.
        identifier: One word without spaces that will mean this subject.

    Raises:
        SubjectError: Pictures are not RGB in [0, 1], or a word is missing.
    """

    images: Float[Tensor, "n 3 h w"]
    noun: str
    identifier: str = "V*"

    def __post_init__(self) -> None:
        """Check pictures and words once, here."""
        _require_pixels(self.images)
        if not self.noun.strip():
            raise SubjectError("found an empty noun; expected a category such as 'cat'; name it")
        if not self.identifier or self.identifier.split() != [self.identifier]:
            raise SubjectError(
                f"found identifier {self.identifier!r}; expected one word without spaces; "
                "use for example 'V*'"
            )

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.images)

    @classmethod
    def from_folder(
        cls, path: Source, *, noun: str, identifier: str = "V*", size: int, flip: bool = False
    ) -> "Subject":
        """Read a subject from a folder or files; see :func:`read_images`."""
        return cls(read_images(path, size=size, flip=flip), noun, identifier)

    @property
    def name(self) -> str:
        """Say the subject, ``V* cat``."""
        return f"{self.identifier} {self.noun}"

    @property
    def prompt(self) -> str:
        """Say c^X of Sec. 2, ``a V* cat``."""
        return f"a {self.name}"

    def prompts(self, templates: Sequence[str] = PROMPT_TEMPLATES) -> tuple[str, ...]:
        """Put the subject in the place of ``{}`` in every template."""
        return tuple(template.replace("{}", self.name) for template in templates)


def read_images(
    source: Source, *, size: int, flip: bool = False, most: int = MAX_IMAGES
) -> Float[Tensor, "n 3 size size"]:
    """Read pictures as upright RGB squares in [0, 1].

    The centre square is kept and resized. Transparency falls on white; of an animation the
    first frame is read. Files of a folder come in the order of their names.

    Args:
        source: A folder, one file, or several files.
        size: Side of the squares, in pixels.
        flip: Append the mirror image of every picture after all of them (twice as many).
        most: Largest number of files.

    Raises:
        SubjectError: Nothing to read, too many files, or files that cannot be used; all of
            these are listed.
    """
    if size < 1:
        raise SubjectError(f"found size {size}; expected a side of 1 pixel or more; raise it")
    files = _files(source)
    if len(files) > most:
        raise SubjectError(f"found {len(files)} pictures; expected 1 to {most}; choose the best")
    pictures, bad = [], []
    for file in files:
        try:
            pictures.append(_read(file, size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            bad.append(f"  {file.name}: {_reason(file, error)}")
    if bad:
        listing = "\n".join(bad)
        raise SubjectError(
            f"found {len(bad)} of {len(files)} files that cannot be used:\n{listing}\n"
            f"expected pictures of at least {MIN_SIDE} px a side; replace or remove these files"
        )
    pixels = torch.stack(pictures)
    return torch.cat([pixels, pixels.flip(-1)]) if flip else pixels


def pixels_of(images: Sequence[Any]) -> Float[Tensor, "n 3 h w"]:
    """Stack RGB pictures of one size (PIL or bytes) as numbers in [0, 1]."""
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def _files(source: Source) -> list[Path]:
    if not isinstance(source, str | Path):
        files = [Path(file) for file in source]
    elif Path(source).is_dir():
        inside = [file for file in Path(source).iterdir() if file.is_file()]
        files = sorted(
            file
            for file in inside
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
    elif Path(source).exists():
        files = [Path(source)]
    else:
        raise SubjectError(
            f"found nothing at {str(source)!r}; expected a folder of pictures; check the path"
        )
    if not files:
        raise SubjectError(
            f"found no pictures in {str(source)!r}; expected 1 to {MAX_IMAGES} files ending in "
            f"{', '.join(sorted(SUFFIXES))}; put the pictures there"
        )
    return files


def _read(file: Path, size: int) -> Float[Tensor, "3 size size"]:
    if file.suffix.lower() in {".heic", ".heif"}:
        _open_heif()
    with Image.open(file) as opened:
        image = _rgb(ImageOps.exif_transpose(opened))
    width, height = image.size
    side = min(width, height)
    if side < MIN_SIDE:
        raise ValueError(f"too small, {width}x{height} px; at least {MIN_SIDE} px a side")
    left, top = (width - side) / 2, (height - side) / 2
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


def _open_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("a HEIC picture; install pillow-heif, or save it as JPEG") from None
    register_heif_opener()


def _reason(file: Path, error: Exception) -> str:
    if not file.exists():
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, whatever its name says"
    return str(error) or type(error).__name__


def _require_pixels(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise SubjectError(
            f"found images of shape {tuple(images.shape)}; expected (n, 3, height, width) with "
            "at least one picture; use read_images"
        )
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise SubjectError(
            f"found {images.dtype} pixels outside [0, 1]; expected RGB as floats in [0, 1]; "
            "divide 8-bit values by 255"
        )
