"""The examiner: reads from a picture of the clay world what is in it, and where.

A finder marks the middle and the box of every thing on a 16 x 16 grid and names the place; a
reader then names noun, colours and pattern of each thing from its box alone. The networks are
trained by ``pretraining.examiner`` on composed pictures, never on a U-Net's; how often they are
right on pictures that they never saw stands in the weights' header (``accuracy``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_suffix(".safetensors")
SIDE, GRID = 64, 16  # pixels that the networks see; cells of the finder
CERTAIN = 0.35  # heat at which something is a thing
MARGIN = 0.08  # of a box's long side, shown around it
PLACES = ("beach", "desert", "grass", "lake", "night", "plain", "road", "room", "snow",
          "wooden floor")  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
           "gray", "cream", "turquoise")  # fmt: skip
TRAITS: dict[str, tuple[str, ...]] = {
    "noun": ("cat", "dog", "rabbit", "teddy bear", "jar", "teapot", "cup", "barrel", "ball", "car",
             "chair", "hat", "sunglasses", "flower", "woman", "lamp"),
    "main": COLOURS,
    "second": COLOURS,
    "pattern": ("plain", "stripes", "dots", "zigzag", "band", "panels", "patches", "tuxedo",
                "points", "saddle", "socks", "belly"),
}  # fmt: skip
Box = Sequence[int | float]


@dataclass(frozen=True)
class SeenThing:
    """One thing; its box (x0, y0, x1, y1) is in pixels of the picture."""

    noun: str
    main: str
    second: str
    pattern: str
    box: Box


@dataclass(frozen=True)
class Seen:
    """What a picture shows; the clearest thing comes first."""

    place: str
    things: tuple[SeenThing, ...]

    @property
    def count(self) -> int:
        """Say how many things there are."""
        return len(self.things)


def _block(inner: int, outer: int, stride: int, size: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, size, padding=size // 2, stride=stride)
    return nn.Sequential(convolution, nn.GroupNorm(8, outer), nn.ReLU())


class Finder(nn.Module):
    """From pictures to heat, boxes (distances from a cell's middle to four sides) and place."""

    def __init__(self) -> None:
        """Start with random weights."""
        super().__init__()
        self.fine = nn.Sequential(_block(3, 32, 2, 5), _block(32, 48, 1), _block(48, 72, 2))
        self.rough = nn.Sequential(_block(72, 96, 2), _block(96, 96, 2), _block(96, 96, 1))
        self.joint = nn.Sequential(_block(168, 72, 1), _block(72, 72, 1))
        self.cells = nn.Conv2d(72, 5, 1)
        self.place = nn.Linear(96 + 72, len(PLACES))

    def forward(self, pixels: Float[Tensor, "n 3 64 64"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return heat logits (n, 16, 16), sides (n, 4, 16, 16) in pictures, place logits."""
        fine = self.fine(pixels)
        rough = self.rough(fine)
        wide = F.interpolate(rough, scale_factor=4.0, mode="nearest")
        cells = self.cells(self.joint(torch.cat([fine, wide], 1)))
        pooled = torch.cat([fine.mean((2, 3)), rough.mean((2, 3))], 1)
        return cells[:, 0], F.softplus(cells[:, 1:]), self.place(pooled)


class Reader(nn.Module):
    """From a box's pixels to logits of every trait."""

    def __init__(self) -> None:
        """Start with random weights."""
        super().__init__()
        self.features = nn.Sequential(
            *(_block(3, 40, 2, 5), _block(40, 48, 1), _block(48, 72, 2), _block(72, 72, 1)),
            *(_block(72, 96, 2), _block(96, 96, 1), _block(96, 96, 2), nn.Flatten()),
            *(nn.Linear(96 * 16, 160), nn.ReLU()),
        )
        self.heads = nn.ModuleDict({key: nn.Linear(160, len(v)) for key, v in TRAITS.items()})

    def forward(self, pixels: Float[Tensor, "n 3 64 64"]) -> dict[str, Tensor]:
        """Return the logits."""
        features = self.features(pixels)
        return {key: head(features) for key, head in self.heads.items()}


def cut(pixels: Float[Tensor, "3 h w"], box: Box) -> Float[Tensor, "3 64 64"]:
    """Cut a box out with a margin and bring it to the reader's size, shape kept."""
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0, 4.0) * (0.5 + MARGIN)
    height, width = pixels.shape[1:]
    steps = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x = ((x0 + x1) / 2 + half * steps) / width * 2 - 1
    y = ((y0 + y1) / 2 + half * steps) / height * 2 - 1
    grid = torch.stack([x[None].expand(SIDE, SIDE), y[:, None].expand(SIDE, SIDE)], -1)
    found = F.grid_sample(
        pixels[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0]


def peaks(
    heat: Float[Tensor, "16 16"], sides: Float[Tensor, "4 16 16"]
) -> list[tuple[float, Box]]:
    """Return heat and box (in pictures) of every cell hotter than its eight neighbours."""
    top = F.max_pool2d(heat[None], 3, 1, 1)[0]
    found = []
    for row, column in ((heat == top) & (heat > CERTAIN)).nonzero().tolist():
        left, up, right, down = sides[:, row, column].tolist()
        x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
        box = (max(0.0, x - left), max(0.0, y - up), min(1.0, x + right), min(1.0, y + down))
        found.append((heat[row, column].item(), box))
    return _apart(sorted(found, reverse=True))


def _apart(found: Sequence[tuple[float, Box]]) -> list[tuple[float, Box]]:
    """Leave out boxes that mostly coincide with a hotter one."""
    kept: list[tuple[float, Box]] = []
    for heat, box in found:
        if all(overlap(box, other) < 0.6 for _, other in kept):
            kept.append((heat, box))
    return kept


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / max(1e-9, sum(areas) - both)


class Examiner:
    """Reads pictures of any size; `accuracy` says how often it is right on unseen ones."""

    def __init__(self, finder: Finder, reader: Reader, accuracy: Mapping[str, float]) -> None:
        """Take trained networks."""
        self.finder, self.reader, self.accuracy = finder.eval(), reader.eval(), dict(accuracy)

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> list[Seen]:
        """Read every picture."""
        return [seen for picture in pictures for seen in self.see(_pixels(picture)[None])]

    @torch.no_grad()
    def see(self, pixels: Float[Tensor, "n 3 h w"]) -> list[Seen]:
        """Read pictures in [-1, 1]; a picture in which nothing stands out has its hottest cell."""
        small = F.interpolate(pixels, (SIDE, SIDE), mode="area")
        heat, sides, places = self.finder(small)
        height, width = pixels.shape[-2:]
        seen = []
        for k, place in enumerate(places.argmax(-1).tolist()):
            hot = heat[k].sigmoid()
            found = peaks(hot, sides[k]) or peaks(hot / hot.max(), sides[k])[:1]
            scale = (width, height, width, height)
            boxes = [tuple(s * f for s, f in zip(box, scale, strict=True)) for _, box in found]
            logits = self.reader(torch.stack([cut(pixels[k], box) for box in boxes]))
            named = {key: [TRAITS[key][i] for i in v.argmax(-1)] for key, v in logits.items()}
            things = [
                SeenThing(**{key: named[key][i] for key in TRAITS}, box=box)
                for i, box in enumerate(boxes)
            ]
            seen.append(Seen(PLACES[place], tuple(things)))
        return seen


def _pixels(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    array = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1


def load_examiner(path: Path = WEIGHTS) -> Examiner:
    """Load the shipped weights.

    Raises:
        FileNotFoundError: There are none.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; the examiner's weights were expected there; make them with "
            "python -m pretraining.train --work DIR --stage examiner"
        )
    finder, reader = Finder(), Reader()
    with safe_open(path, "pt") as file:
        accuracy = json.loads(file.metadata()["accuracy"])
        for name, module in (("finder", finder), ("reader", reader)):
            module.load_state_dict(
                {key: file.get_tensor(f"{name}.{key}").float() for key in module.state_dict()}
            )
    return Examiner(finder, reader, accuracy)
