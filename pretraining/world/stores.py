"""Rendered looks and composed pictures on disk, memory-mapped.

A store is a folder of parts: `looks-00000.npy` (uint8) with `looks-00000.json` beside it, whose
`made` says what it was made of and whose `rows` say what each entry shows. The json is written
last, so a part exists once its json does. Writing is in `production`.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from pretraining.world.captions import Labels

LOOK_SIZE = 104
AnyStore = TypeVar("AnyStore", bound="Store")


class Store:
    """Arrays of several parts, read as one, and a row of labels for every entry."""

    stems: tuple[str, ...]

    def __init__(self, arrays: Sequence[np.ndarray], rows: Sequence[dict[str, Any]]) -> None:
        """Take the parts' arrays and all rows in the same order."""
        self.rows = rows
        self._entries = [entry for array in arrays for entry in array]

    @classmethod
    def open(cls: type[AnyStore], folder: Path) -> AnyStore:
        """Open the finished parts in a folder.

        Raises:
            FileNotFoundError: the folder holds none.
        """
        paths = [path for stem in cls.stems for path in sorted(folder.glob(f"{stem}-*.json"))]
        if not paths:
            raise FileNotFoundError(
                f"{folder} holds no {cls.stems[0]}-*.json; a folder of finished parts was "
                "expected; make one with python -m pretraining.world"
            )
        arrays = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths]
        return cls(arrays, [r for path in paths for r in json.loads(path.read_text())["rows"]])

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.rows)

    def pixels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "n h w channels"]:
        """Copy entries out, in the order asked for."""
        return np.stack([self._entries[index] for index in indices])


class PictureStore(Store):
    """Composed pictures; a row has caption, place, light, relation, held_out and things."""

    stems = ("pictures",)


class LookStore(Store):
    """Looks as sprites; `unnamed` and `named` list the rows of each noun."""

    stems = ("looks", "named")

    def __init__(self, arrays: Sequence[np.ndarray], rows: Sequence[dict[str, Any]]) -> None:
        """Sort the rows by noun."""
        super().__init__(arrays, rows)
        self.unnamed: dict[str, list[int]] = {}
        self.named: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            group = self.named if row["name"] else self.unnamed
            group.setdefault(row["noun"], []).append(index)

    def rgba(self, index: int) -> UInt8[np.ndarray, "h w 4"]:
        """Return one sprite, cropped."""
        height, width = self.rows[index]["size"]
        return self.pixels([index])[0, :height, :width]

    def labels(self, index: int) -> Labels:
        """Return what one sprite shows."""
        return Labels(*(self.rows[index][field.name] for field in fields(Labels)))
