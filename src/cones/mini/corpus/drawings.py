"""Emoji as sprites: six sets whose licences allow it, each drawing under the noun it shows.

The sets of iconify hold the bodies of SVGs, which resvg draws; Fluent's 3D emoji are pictures
named by code points, which Noto's table puts into words. Share-alike sets (OpenMoji, EmojiOne 1)
stay out.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus.nouns import collapsed, drawings

LONG_SIDE, MARGIN = 96, 2  # pixels of a sprite
_DRAWN_AT = 192  # then scaled down: finer edges than drawing small


@dataclass(frozen=True)
class Set:
    """One set: its package, who drew it, its licence, and the words captions call it."""

    package: str
    source: str
    creator: str
    licence: str
    words: str


SETS = (
    Set("noto", "iconify noto", "Google", "Apache-2.0", "flat emoji"),
    Set("noto-v1", "iconify noto-v1", "Google", "Apache-2.0", "blob emoji"),
    Set(
        "twemoji",
        "iconify twemoji",
        "Twitter, Inc and other contributors",
        "CC BY 4.0",
        "flat emoji",
    ),
    Set("emojione", "iconify emojione", "EmojiOne (version 2)", "CC BY 4.0", "flat emoji"),
    Set("fxemoji", "iconify fxemoji", "Mozilla Foundation", "CC BY 4.0", "flat emoji"),
    Set("fluent3d", "fluent-emoji-3d", "Microsoft Corporation", "MIT", "3d emoji"),
)


def sprites(folders: Mapping[str, Path]) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """Draw every emoji whose noun is known.

    Args:
        folders: Unpacked packages by the names of :data:`cones.mini.corpus.packages.PACKAGES`.

    Yields:
        The row of ``sprites.jsonl`` (without shard and size) and the RGBA picture.
    """
    for drawn in SETS:
        for slug, picture in _pictures(drawn, folders):
            yield _row(drawn, slug), trimmed(picture)


def trimmed(picture: Image.Image) -> Image.Image:
    """Cut an RGBA picture to what is not transparent; long side 96 px, with a 2 px margin.

    Raises:
        SubjectError: All of it is transparent.
    """
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise SubjectError("found a drawing without any opaque pixel; expected some; leave it out")
    cut = picture.crop(box)
    scale = (LONG_SIDE - 2 * MARGIN) / max(cut.size)
    inside = tuple(max(1, round(side * scale)) for side in cut.size)
    small = _scaled(cut, inside)
    framed = Image.new("RGBA", tuple(side + 2 * MARGIN for side in inside))
    framed.paste(small, (MARGIN, MARGIN))
    return framed


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale with colours weighted by alpha, so that hidden pixels do not shine through."""
    pixels = np.asarray(picture, dtype=np.float32) / 255
    alpha = pixels[..., 3:]
    weighted = np.concatenate([pixels[..., :3] * alpha, alpha], axis=-1)
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))
        for plane in np.moveaxis(weighted, -1, 0)
    ]
    small = np.clip(np.stack(planes, axis=-1), 0, 1)
    small[..., :3] = np.clip(small[..., :3] / np.maximum(small[..., 3:], 1 / 255), 0, 1)
    return Image.fromarray((255 * small).round().astype(np.uint8), "RGBA")


def _pictures(drawn: Set, folders: Mapping[str, Path]) -> Iterator[tuple[str, Image.Image]]:
    if drawn.package == "fluent3d":
        yield from _fluent(folders["fluent3d"], folders["noto"])
        return
    package = folders[drawn.package] / "package"
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    for slug in sorted(icons["icons"]):
        if collapsed(slug) not in drawings() or icons["icons"][slug].get("hidden"):
            continue
        icon = icons["icons"][slug]
        size = [icon.get(side, icons.get(side, 16)) for side in ("width", "height")]
        yield slug, svg_picture(icon["body"], *size)


def _fluent(folder: Path, noto: Path) -> Iterator[tuple[str, Image.Image]]:
    slugs = json.loads((noto / "package" / "chars.json").read_text("utf-8"))
    for file in sorted((folder / "package" / "assets").glob("*.webp")):
        slug = slugs.get(file.stem) or slugs.get(file.stem.replace("-fe0f", ""))
        if slug and collapsed(slug) in drawings():
            with Image.open(file) as opened:
                yield slug, opened.convert("RGBA")


def svg_picture(body: str, width: float, height: float) -> Image.Image:
    """Draw the body of an SVG of the given size as RGBA.

    Raises:
        SubjectError: The extra ``corpus`` is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise SubjectError(
            'found no resvg-py; expected it to draw SVGs; pip install "cones[corpus]"'
        ) from error
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    text = f"<svg {frame}>{body}</svg>"
    data = resvg_py.svg_to_bytes(svg_string=text, width=_DRAWN_AT)
    with Image.open(io.BytesIO(bytes(data))) as opened:
        return opened.convert("RGBA")


def _row(drawn: Set, slug: str) -> dict[str, Any]:
    style = "fluent-3d" if drawn.package == "fluent3d" else drawn.package
    return {
        "file": f"train_{drawn.package}_{slug}.webp",
        "class": drawings()[collapsed(slug)],
        "name": slug.replace("-", " "),
        "colour": None,
        "style": f"emoji:{style}",
        "style_words": drawn.words,
        "source": drawn.source,
        "creator": drawn.creator,
        "licence": drawn.licence,
        "model": f"{drawn.package}#{slug}",
        "size_cm": None,
        "drop_on_top_cm": None,
        "azimuth": None,
        "elevation": None,
        "split": "train",
    }
