"""What the built-in model's pictures are composed of: cut-out things and places, read from disk.

The format of the corpus folder is described in its README: ``sprites.jsonl``,
``backgrounds.jsonl`` and the tar shards they name.
"""

import io
import json
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cones.errors import SubjectError
from cones.mini.world import Thing

SIZE = 64  # pixels


@dataclass(frozen=True)
class Sprite:
    """A cut-out picture (RGBA) and the words for it.

    Attributes:
        image: RGBA.
        thing: Its words.
        model: Identity of the thing; all its views share it.
        drawn: Whether it is a drawing, not a render.
        cm: Its longest side in reality, in centimetres, where it is known.
        top: Where other things can stand on it, in shares of its height from below, or None.
    """

    image: Image.Image
    thing: Thing
    model: str
    drawn: bool
    cm: float | None = None
    top: float | None = None


@dataclass(frozen=True)
class Background:
    """A place (RGB, ``SIZE`` square) and where objects may stand, in shares of its height."""

    image: Image.Image
    label: str
    ground_from: float
    ground_to: float


def rows_of(folder: Path, name: str) -> list[dict]:
    """Read an index of the corpus, ``sprites.jsonl`` or ``backgrounds.jsonl``.

    Raises:
        SubjectError: There is none.
    """
    path = folder / name
    if not path.is_file():
        raise SubjectError(
            f"{path} is missing; expected a sprite corpus folder with sprites.jsonl and "
            "backgrounds.jsonl; pass its path with --corpus"
        )
    return [json.loads(line) for line in path.read_text().splitlines()]


def opened(folder: Path, rows: list[dict]) -> list[tuple[dict, Image.Image]]:
    """Read the picture of every row from its shard."""
    with ExitStack() as stack:
        names = {row["shard"] for row in rows}
        shards = {n: stack.enter_context(tarfile.open(folder / n)) for n in names}
        files = [shards[row["shard"]].extractfile(row["file"]).read() for row in rows]
    return [(row, Image.open(io.BytesIO(data))) for row, data in zip(rows, files, strict=True)]
