"""Pictures about concepts: where words look, and density layer by layer."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.analysis.attention import Look
from cones.analysis.places import in_order, kind_of, short
from cones.errors import ConesError
from cones.files import replace_when_done
from cones.mask import Mask

HEAT = ((0, 0, 4), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))
COVER = 0.65  # how much of an overlaid picture is heat
COLOURS = {"self K": "#9ecae1", "self V": "#3182bd", "cross K": "#fdae6b", "cross V": "#e6550d"}


def overlay(image: Image.Image, found: Float[Tensor, "y x"]) -> Image.Image:
    """Lay a map over a picture in grey, from dark to light yellow where the map is largest."""
    shares = (found / found.max().clamp_min(1e-12)).float().cpu().numpy()
    heat = Image.fromarray(shares, mode="F").resize(image.size, Image.Resampling.BICUBIC)
    stops, bands = np.linspace(0, 1, len(HEAT)), zip(*HEAT, strict=True)
    colours = np.stack([np.interp(np.asarray(heat), stops, band) for band in bands], 2)
    grey = np.asarray(image.convert("L"), dtype=float)[:, :, None]
    return Image.fromarray(np.uint8((1 - COVER) * grey + COVER * colours))


def attention_rows(looks: Mapping[str, Look]) -> dict[str, list[Image.Image]]:
    """Give the rows of Fig. 2 for :func:`cones.drawing.sheet`: a picture, and its words' maps."""
    return {
        row: [look.image, *(overlay(look.image, found) for found in look.maps.values())]
        for row, look in looks.items()
    }


def densities(mask: Mask, path: Path | str, *, title: str = "") -> None:
    """Write a PNG of the share of concept neurons in every searched layer (Fig. 4b).

    Raises:
        ConesError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConesError("found no matplotlib; expected it; pip install 'cones[plot]'") from error
    names = in_order(mask.shapes)
    shares = [100 * len(mask.indices[n]) / max(math.prod(mask.shapes[n]), 1) for n in names]
    figure = Figure(figsize=(9, max(2.5, 0.17 * len(names) + 1.2)), layout="tight")
    axes = figure.add_subplot(title=title, xlabel=f"neurons, % (all: {mask.density:.2%})")
    colours = [COLOURS.get(kind_of(name), "#bbbbbb") for name in names]
    axes.barh(range(len(names)), shares, color=colours)
    axes.axvline(100 * mask.density, color="#666666", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=6)
    axes.invert_yaxis()
    with replace_when_done(Path(path)) as unfinished:
        figure.savefig(unfinished, format="png", dpi=150)
