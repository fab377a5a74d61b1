"""Rendered looks and composed pictures on disk, memory-mapped.

A store is a folder of parts: `looks-00000.npy` (uint8) with `looks-00000.json` beside it, whose
`made` says what it was made of and whose `rows` say what each entry shows. The json is written
last, so a part exists once its json does. Writing is in `production`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pretraining.world.captions import Labels

LOOK_SIZE = 104


def read_parts(folder: Path, stem: str) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Map the arrays of a store's parts and read their rows.

    Raises:
        FileNotFoundError: the folder holds no such part.
    """
    paths = sorted(Path(folder).glob(f"{stem}-*.json"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no {stem}-*.json; a folder of finished parts was expected; "
            "make one with python -m pretraining.world"
        )
    arrays = [np.load(path.with_suffix(".npy"), mmap_mode="r") for path in paths]
    rows = [row for path in paths for row in json.loads(path.read_text())["rows"]]
    return arrays, rows


def _locate(arrays: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return part and place in it of every entry."""
    return [(part, k) for part, array in enumerate(arrays) for k in range(len(array))]


class LookStore:
    """Looks as sprites; `unnamed` and `named` list the rows of each noun."""

    def __init__(self, arrays: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]]) -> None:
        """Take arrays of n x 104 x 104 x 4 and one row an entry (see `production`)."""
        self.rows, self._arrays, self._places = rows, arrays, _locate(arrays)
        self.unnamed: dict[str, list[int]] = {}
        self.named: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            group = self.named if row["name"] else self.unnamed
            group.setdefault(row["noun"], []).append(index)

    @classmethod
    def open(cls, folder: Path) -> "LookStore":
        """Open what `python -m pretraining.world render` wrote."""
        looks, named = read_parts(folder, "looks"), read_parts(folder, "named")
        return cls([*looks[0], *named[0]], [*looks[1], *named[1]])

    def rgba(self, index: int) -> UInt8[np.ndarray, "h w 4"]:
        """Return one sprite, cropped."""
        part, k = self._places[index]
        height, width = self.rows[index]["size"]
        return np.asarray(self._arrays[part][k, :height, :width])

    def labels(self, index: int) -> Labels:
        """Return what one sprite shows."""
        row = self.rows[index]
        return Labels(**{field.name: row[field.name] for field in fields(Labels)})


class PictureStore:
    """Composed pictures, and in `rows` the caption, place, light, relation and things of each."""

    def __init__(self, arrays: Sequence[np.ndarray], rows: Sequence[dict[str, Any]]) -> None:
        """Take arrays of n x h x w x 3 and one row an entry."""
        self.rows, self._arrays, self._places = rows, arrays, _locate(arrays)

    @classmethod
    def open(cls, folder: Path) -> "PictureStore":
        """Open what `python -m pretraining.world compose` wrote."""
        return cls(*read_parts(folder, "pictures"))

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.rows)

    def pixels(self, indices: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
        """Copy pictures out, in the order asked for."""
        return np.stack(
            [self._arrays[part][k] for part, k in map(self._places.__getitem__, indices)]
        )
