"""Pictures about pictures: labelled sheets, and the density of a concept layer by layer.

Every PNG written here carries its settings as JSON in the text chunk ``parameters``, so that a
picture says how it was made. Sheets need Pillow only; curves and the density picture import
matplotlib (the extra ``plot``).
"""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cones.errors import ConesError
from cones.mask import ConceptMask
from cones.record import appearing
from cones.stats import density_per_site

PARAMETERS = "parameters"
GAP, LINE, LABEL = 8, 15, 130
HEAT = ((0, 0, 4), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))
COVER = 0.65  # how much of an overlaid picture is heat
INK, PAPER = (30, 30, 30), (255, 255, 255)
COLOURS = {"self K": "#9ecae1", "self V": "#3182bd", "cross K": "#fdae6b", "cross V": "#e6550d"}


@dataclass(frozen=True)
class Row:
    """One line of a sheet.

    Attributes:
        label: What all its pictures have in common.
        images: From left to right.
        captions: Below each picture, or nothing.
    """

    label: str
    images: Sequence[Image.Image]
    captions: Sequence[str] = ()


def picture_sheet(rows: Sequence[Row], *, title: str = "", side: int = 128) -> Image.Image:
    """Put labelled rows of pictures on one sheet, every picture ``side`` pixels wide."""
    columns = max(len(row.images) for row in rows)
    heights = [side + GAP + LINE * _lines(row, side) for row in rows]
    top = GAP + (LINE + GAP if title else 0)
    width = LABEL + columns * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    draw.text((GAP, GAP), title, fill=INK, font=font)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(sheet, draw, row, top=top, side=side, font=font)
        top += height
    return sheet


def _draw_row(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, *, top: int, side: int, font: Any
) -> None:
    draw.text((GAP, top), _wrapped(row.label, LABEL), fill=INK, font=font)
    for column, image in enumerate(row.images):
        left = LABEL + column * (side + GAP)
        small = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, top))
        if row.captions:
            caption = _wrapped(row.captions[column], side)
            draw.text((left, top + side), caption, fill=INK, font=font)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(width // 7, 6)))


def _lines(row: Row, side: int) -> int:
    return max((_wrapped(text, side).count("\n") + 1 for text in row.captions), default=0)


def overlay(image: Image.Image, shares: Sequence[Sequence[float]]) -> Image.Image:
    """Lay a map, rows of numbers, over a picture in grey: dark where it is low, to light yellow.

    The map's largest value is the lightest; a map of zeros is dark all over.
    """
    rows = np.asarray(shares, dtype=float)
    heat = Image.fromarray(np.float32(rows / max(rows.max(), 1e-12)), mode="F")
    heat = np.clip(heat.resize(image.size, Image.Resampling.BICUBIC), 0, 1)
    places = np.linspace(0, 1, len(HEAT))
    colours = np.stack(
        [np.interp(heat, places, channel) for channel in zip(*HEAT, strict=True)], 2
    )
    grey = np.asarray(image.convert("L"), dtype=float)[:, :, None]
    return Image.fromarray(np.uint8((1 - COVER) * grey + COVER * colours))


def png_bytes(image: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """Lay out a PNG that carries ``settings`` as JSON."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PARAMETERS, json.dumps(settings, ensure_ascii=False, sort_keys=True))
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


def save_picture(image: Image.Image, path: Path | str, settings: Mapping[str, Any]) -> None:
    """Write a PNG that carries ``settings`` as JSON; the file appears only when complete."""
    with appearing(path) as unfinished:
        unfinished.write_bytes(png_bytes(image, settings))


def read_settings(path: Path | str) -> dict[str, Any] | None:
    """Read the settings back, or None where the file is no picture of ours."""
    try:
        with Image.open(path) as image:
            return json.loads(image.info[PARAMETERS])
    except (OSError, SyntaxError, KeyError, ValueError, TypeError):
        return None


def density_picture(mask: ConceptMask, path: Path | str, *, title: str = "") -> None:
    """Draw the share of concept neurons in every searched layer as bars (cf. Fig. 4b).

    Raises:
        ConesError: matplotlib is not installed.
    """
    figure_class, canvas_class = _matplotlib()
    densities = density_per_site(mask)
    figure = figure_class(figsize=(9, max(2.5, 0.17 * len(densities) + 1.2)))
    canvas_class(figure)
    axes = figure.add_subplot()
    kinds = [_kind(name) for name in densities]
    axes.barh(
        range(len(densities)),
        [100 * share for share in densities.values()],
        color=[COLOURS.get(kind, "#bbbbbb") for kind in kinds],
    )
    axes.axvline(100 * mask.density, color="#666666", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(densities)), [_short(name) for name in densities], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel(f"concept neurons, % of the weights of a layer (all: {mask.density:.2%})")
    axes.set_title(title, fontsize=9)
    figure.tight_layout()
    _save_figure(figure, Path(path), {"neurons": len(mask), "density": mask.density})


def curves_picture(curves: Mapping[str, Sequence[float]], path: Path | str, *, every: int) -> None:
    """Draw curves, each in a field of its own, against the number of updates.

    Args:
        curves: Title of a field -> values, one per ``every`` updates.
        path: PNG to write.
        every: Updates between two values; a running mean over 20 values is drawn over them.

    Raises:
        ConesError: matplotlib is not installed.
    """
    figure_class, canvas_class = _matplotlib()
    figure = figure_class(figsize=(3.2 * len(curves), 2.6))
    canvas_class(figure)
    for axes, (title, values) in zip(
        np.atleast_1d(figure.subplots(1, len(curves))), curves.items(), strict=True
    ):
        window = min(20, len(values))
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        steps = every * np.arange(len(values))
        axes.plot(steps, values, color="#9ecae1", linewidth=0.6)
        middle = slice((window - 1) // 2, (window - 1) // 2 + len(smooth))
        axes.plot(steps[middle], smooth, color="#3182bd", linewidth=1.2)
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("updates", fontsize=8)
        axes.tick_params(which="both", labelsize=7)
    figure.tight_layout()
    _save_figure(figure, Path(path), {"every": every})


def scatter_picture(
    fields: Mapping[str, Sequence[tuple[float, float]]],
    path: Path | str,
    *,
    across: str,
    up: str,
    settings: Mapping[str, Any],
) -> None:
    """Draw points in one field or several, side by side, each with zero marked where it is in.

    Args:
        fields: Title of a field -> its points, across and up.
        path: PNG to write.
        across: What all fields have on the horizontal axis.
        up: What they have on the vertical axis.
        settings: Kept in the PNG.

    Raises:
        ConesError: matplotlib is not installed.
    """
    figure_class, canvas_class = _matplotlib()
    figure = figure_class(figsize=(4.2 * len(fields), 3.6))
    canvas_class(figure)
    drawn = np.atleast_1d(figure.subplots(1, len(fields)))
    for axes, (title, points) in zip(drawn, fields.items(), strict=True):
        axes.scatter(*zip(*points, strict=True), s=14, color="#3182bd", alpha=0.7, linewidths=0)
        if min(point[1] for point in points) < 0 < max(point[1] for point in points):
            axes.axhline(0, color="#666666", linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(across, fontsize=8)
        axes.tick_params(labelsize=7)
    drawn[0].set_ylabel(up, fontsize=8)
    figure.tight_layout()
    _save_figure(figure, Path(path), settings)


def _save_figure(figure: Any, path: Path, settings: Mapping[str, Any]) -> None:
    with appearing(path) as unfinished:
        metadata = {PARAMETERS: json.dumps(settings)}
        figure.savefig(unfinished, format="png", dpi=150, metadata=metadata)


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConesError(
            "matplotlib is not installed, expected it for this picture; pip install 'cones[plot]'"
        ) from error
    return Figure, FigureCanvasAgg


def _kind(name: str) -> str:
    attention = "self" if ".attn1." in name else "cross"
    return f"{attention} {'K' if '.to_k' in name else 'V'}"


def _short(name: str) -> str:
    """Shorten ``down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k.weight``."""
    short = name.replace(".weight", "").replace("_blocks.", "").replace("mid_block", "mid")
    return short.replace(".attentions.", ".").replace(".transformer0", "")
