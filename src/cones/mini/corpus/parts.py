"""The parts of a corpus while it is made, and their packing into shards, indices and a table.

Every picture is kept as a file beside its row as soon as it is made, so that an interrupted build
goes on. Packing is the last step: the same parts give the same bytes.
"""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from cones.errors import SubjectError
from cones.record import appearing, write_json, write_text

SHARD = 16 * 2**20  # bytes; larger shards are begun anew
CHANGES = "rendered or scaled; some recoloured"


class Parts:
    """Pictures of one kind (``sprites`` or ``backgrounds``) in a folder, each with its row."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, which need not exist yet."""
        self.folder = folder

    def __contains__(self, file: str) -> bool:
        """Tell whether a picture and its row are there."""
        return (self.folder / f"{file}.json").is_file()

    def add(self, row: dict[str, Any], picture: Image.Image) -> None:
        """Keep a picture as WebP, of which ``row["file"]`` is the name, then its row."""
        sized = {**row, "width": picture.width, "height": picture.height}
        with appearing(self.folder / row["file"]) as unfinished:
            picture.save(unfinished, format="WEBP", quality=92, method=4)
        write_json(self.folder / f"{row['file']}.json", sized)

    def row(self, file: str) -> dict[str, Any]:
        """Read the row of a picture."""
        return json.loads((self.folder / f"{file}.json").read_text("utf-8"))

    def rows(self) -> list[dict[str, Any]]:
        """Read all rows, in the order of their files."""
        return [self.row(found.name.removesuffix(".json")) for found in self._indices()]

    def picture(self, file: str) -> Image.Image:
        """Read a picture."""
        with Image.open(self.folder / file) as opened:
            opened.load()
            return opened

    def _indices(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))


def pack(parts: Parts, out: Path, name: str) -> list[dict[str, Any]]:
    """Pack parts into ``<name>/<group>-000.tar`` and ``<name>.jsonl``, and give its rows.

    Sprites are grouped as ``photo``, ``emoji`` and ``subject``; all backgrounds are one group.

    Raises:
        SubjectError: There is nothing to pack.
    """
    rows = parts.rows()
    if not rows:
        raise SubjectError(f"found no {name} in {parts.folder}; expected some; make them first")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_group(row, name), []).append(row)
    packed = [
        {"shard": shard, **row}
        for group in sorted(groups)
        for shard, row in _sharded(parts, groups[group], out, f"{name}/{group}")
    ]
    write_text(out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in packed))
    return packed


def attribution(rows: Iterable[dict[str, Any]], file: Path) -> int:
    """Write one line for every model, drawing or panorama: who made it, under what licence."""
    lines = {
        (row["source"], row.get("model", ""), row.get("name", ""))
        + (row["creator"], row["licence"], CHANGES, row["split"])
        for row in rows
    }
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("source", "model", "name", "creator", "licence", "changes", "split"))
    table.writerows(sorted(lines))
    write_text(file, text.getvalue())
    return len(lines)


def _group(row: dict[str, Any], name: str) -> str:
    if name == "backgrounds":
        return name
    if row["split"] == "subject":
        return "subject"
    return "photo" if row["style"] == "photo" else "emoji"


def _sharded(
    parts: Parts, rows: list[dict[str, Any]], out: Path, stem: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write shards of at most :data:`SHARD` bytes; names and times in them say nothing."""
    for number, some in enumerate(_runs(parts, rows)):
        shard = f"{stem}-{number:03d}.tar"
        with appearing(out / shard) as unfinished, tarfile.open(unfinished, "w") as tar:
            for row in some:
                data = (parts.folder / row["file"]).read_bytes()
                member = tarfile.TarInfo(row["file"])
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        yield from ((shard, row) for row in some)


def _runs(parts: Parts, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    run: list[dict[str, Any]] = []
    filled = 0
    for row in rows:
        size = 1024 + (parts.folder / row["file"]).stat().st_size
        if run and filled + size > SHARD:
            yield run
            run, filled = [], 0
        run.append(row)
        filled += size
    yield run
