"""A folder of thousands of concept files, searched without reading them again.

An index beside the files (SQLite) keeps what each says of itself and a sketch of its mask. A file
is read when its time or size has changed, and decoded when its SHA-256 is new. The index holds
nothing that the files do not say: delete it at any time. Whoever can write to the folder can
write to it. Folders inside the folder are not looked at.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt16

import cones
from cones.errors import FileError

INDEX = "cones.index"
SCHEMA = """
    CREATE TABLE IF NOT EXISTS files (name BLOB PRIMARY KEY, mtime INT, size INT, digest TEXT);
    CREATE TABLE IF NOT EXISTS concepts (digest TEXT PRIMARY KEY, told TEXT, sketch BLOB);
"""
AT_ONCE = 100  # files between two writes of the index
BINS, EMPTY = 512, 0xFFFF  # of a sketch; what stands in a bin without neurons
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbours
Sketch = UInt16[np.ndarray, " bins"]


@dataclass(frozen=True)
class Entry:
    """What a library knows of a file; of one that cannot be read, the ``error``.

    ``words`` are pairs of identifier and noun, ``base`` the model's name. ``levels`` are digests
    of the masks, sparse to dense, and ``parts`` of those it was made of: joined, or searched in.
    """

    path: Path
    error: str = ""
    words: Sequence[Sequence[str]] = ()
    base: str = ""
    density: float = 0.0
    levels: Sequence[str] = ()
    parts: Sequence[str] = ()
    certificate: Mapping[str, object] = field(default_factory=dict)


class Library:
    """The concept files of a folder, as they were when it was opened.

    ``progress("library", done, total)`` is called while files are read. ``entries`` are all files
    by name. One that is damaged is among them, with its error.

    Raises:
        FileError: There is no such folder, or its index cannot be read or written.
    """

    def __init__(
        self, folder: str | Path, *, progress: Callable[..., object] | None = None
    ) -> None:
        """Open the folder, and bring its index up to date."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileError(f"{str(folder)!r} is no folder; expected one; check the path")
        try:
            with closing(sqlite3.connect(self.folder / INDEX, timeout=60)) as db:
                db.executescript(SCHEMA)
                self._update(db, progress or (lambda *_: None))
                known = "FROM files JOIN concepts USING (digest) ORDER BY name"
                rows = db.execute(f"SELECT name, told, sketch {known}").fetchall()
            self.entries = [
                Entry(self.folder / os.fsdecode(r[0]), **json.loads(r[1])) for r in rows
            ]
            self._sketches = np.frombuffer(b"".join(r[2] for r in rows), "<u2").reshape(-1, BINS)
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise FileError(
                f"{str(self.folder / INDEX)!r} cannot be used ({error}); expected an index in a "
                "folder that can be written; delete it, or copy the concepts elsewhere"
            ) from error

    def find(self, *, noun: str | None = None, base: str | None = None) -> list[Entry]:
        """List the readable files with this noun, on base models with this in their name."""
        found = [entry for entry in self.entries if not entry.error and (base or "") in entry.base]
        return [e for e in found if noun is None or noun in [word[1] for word in e.words]]

    def near(self, concept: "cones.Concept", *, count: int = 10) -> list[tuple[Entry, float]]:
        """List the files whose masks are most like that of a concept, with their likeness.

        That is the share of the neurons of either that both have (Jaccard), estimated with a
        standard error of at most .022. Models of other layers share nothing.
        """
        found = likeness(self._sketches, sketch(concept.mask))
        best = np.argsort(-found, kind="stable")[:count]
        return [(self.entries[k], float(found[k])) for k in best if not self.entries[k].error]

    def family(self, concept: "cones.Concept") -> tuple[list[Entry], list[Entry]]:
        """List the files that a concept was made of, and those that were made of it."""
        parts, levels = _parts(concept), {mask.digest for mask in concept.levels}
        sources = [entry for entry in self.entries if not parts.isdisjoint(entry.levels)]
        return sources, [entry for entry in self.entries if not levels.isdisjoint(entry.parts)]

    def _update(self, db: sqlite3.Connection, progress: Callable[..., object]) -> None:
        """Read what is new or has changed, and forget what is gone; goes on if interrupted."""
        there, seen = {}, "SELECT name, mtime, size FROM files JOIN concepts USING (digest)"
        for each in os.scandir(self.folder):
            with suppress(OSError):  # it has just gone, or is a broken link
                if each.name.endswith(".safetensors") and each.name[0] != "." and each.is_file():
                    there[os.fsencode(each.name)] = each.stat().st_mtime_ns, each.stat().st_size
        known = {name: (mtime, size) for name, mtime, size in db.execute(seen)}
        fresh = [name for name, stat in there.items() if known.get(name) != stat]
        for start in range(0, len(fresh), AT_ONCE):
            part = {name: self._read(db, name) for name in fresh[start : start + AT_ONCE]}
            stats = {n: (0, 0) if told[0] == n.hex() else there[n] for n, told in part.items()}
            files = [(name, *stats[name], told[0]) for name, told in part.items()]
            with db:
                db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", files)
                new = [told for told in part.values() if len(told) > 1]
                db.executemany("INSERT OR REPLACE INTO concepts VALUES (?, ?, ?)", new)
            progress("library", start + len(part), len(fresh))
        if gone := [(name,) for name in known.keys() - there.keys()]:
            with db:
                db.executemany("DELETE FROM files WHERE name = ?", gone)
                db.execute("DELETE FROM concepts WHERE digest NOT IN (SELECT digest FROM files)")

    def _read(self, db: sqlite3.Connection, name: bytes) -> tuple[str | bytes, ...]:
        """Give a file's digest, and unless they are known, what it says and its sketch."""
        from cones.concept_file import MOST_BYTES, loads  # torch is loaded here, and only now

        digest, row = name.hex(), np.full(BINS, EMPTY)  # a name in its place: try again
        try:
            with (self.folder / os.fsdecode(name)).open("rb") as file:
                data = file.read(MOST_BYTES)  # what is longer is refused as damaged
            digest = hashlib.sha256(data).hexdigest()
            if db.execute("SELECT 1 FROM concepts WHERE digest = ?", (digest,)).fetchone():
                return (digest,)
            concept = loads(data)
            row, words = sketch(concept.mask), [(w.identifier, w.noun) for w in concept.words]
            told = {"words": words, "base": concept.base.model, "density": concept.density}
            told |= {"levels": [mask.digest for mask in concept.levels]}
            told |= {"parts": sorted(_parts(concept)), "certificate": concept.certificate}
        except (FileError, OSError) as error:
            told = {"error": str(error)}
        return digest, json.dumps(told), row.astype("<u2").tobytes()


def sketch(mask: "cones.Mask") -> Sketch:
    """Sketch a mask in 1 kB: of the least hash in every bin, 16 bits (minhash).

    Neurons are hashed once and dealt out to the bins by their hash. Two masks agree in a bin with
    the probability that is their Jaccard likeness.
    """
    found = np.full(BINS, none := np.iinfo(np.uint64).max, np.uint64)
    for name, index in mask.indices.items():
        key = hashlib.sha256(repr((name, mask.shapes[name])).encode()).digest()
        hashed = index.numpy().astype(np.uint64) * GOLDEN + np.frombuffer(key, "<u8", 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            hashed = (hashed ^ hashed >> np.uint64(shift)) * np.uint64(factor)
        hashed ^= hashed >> np.uint64(31)
        np.minimum.at(found, (hashed >> np.uint64(55)).astype(np.intp), hashed)
    return np.where(found == none, EMPTY, found % np.uint64(EMPTY)).astype(np.uint16)


def likeness(sketches: UInt16[np.ndarray, "n bins"], other: Sketch) -> Float[np.ndarray, " n"]:
    """Estimate the Jaccard likeness of masks and another one from their sketches."""
    void = np.count_nonzero(sketches[:, other == EMPTY] == EMPTY, axis=1)
    return (np.count_nonzero(sketches == other, axis=1) - void) / np.maximum(BINS - void, 1)


def _parts(concept: "cones.Concept") -> set[str]:
    """Read from the settings, which may hold anything, what a concept was made of."""
    listed = concept.settings.get("parts") or []
    found = [part.get("mask") for part in listed if isinstance(part, Mapping)]
    return {d for d in [*found, concept.settings.get("within")] if isinstance(d, str)}
