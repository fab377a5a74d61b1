"""Safetensors files with JSON settings, as the rival methods write and read them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cones.errors import CodecError
from cones.record import appearing

SETTINGS = "cones"


@dataclass(frozen=True)
class Found:
    """A file that can be read, and the settings in it."""

    file: Path
    settings: dict[str, Any]


def write(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write tensors and settings under a temporary name and rename."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with appearing(path) as unfinished:
        save_file(ready, unfinished, {"format": "pt", SETTINGS: json.dumps(dict(settings))})


def require(path: Path) -> Found:
    """Check that a file is there, whole, and written by :func:`write`.

    Raises:
        CodecError: It is not.
    """
    try:
        with safe_open(path, "pt") as file:
            return Found(path, json.loads(file.metadata()[SETTINGS]))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CodecError(
            f"cannot read {path} ({type(error).__name__}); expected a file that save() wrote; "
            "fit and save again"
        ) from error


def size_of(folder: Path) -> int:
    """Add up the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
