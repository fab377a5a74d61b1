"""A file that remembers every finished cell of a benchmark, so that it can go on any time.

One JSON line a cell, flushed to the disk before the next cell begins. A line cut short by a
crash is ignored and measured again. A cell is found by its key alone, and the key holds all that
its figures depend on: change the settings or the model and nothing old is reused.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Ledger:
    """Finished cells by key, in a JSON-lines file.

    Args:
        path: The file; made when the first cell is finished.
    """

    def __init__(self, path: Path | str) -> None:
        """Read what was finished before."""
        self.path = Path(path)
        self._rows: dict[str, dict[str, Any]] = {}
        for line in _lines(self.path):
            try:
                entry = json.loads(line)
                self._rows[entry["key"]] = entry["row"]
            except (ValueError, KeyError, TypeError):
                continue  # cut short: it will be measured again

    def __len__(self) -> int:
        """Count the finished cells."""
        return len(self._rows)

    def get(
        self, key: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Give the row of ``key``, measuring it only if it is new."""
        name = digest(key)
        if name not in self._rows:
            # Through JSON also when fresh, so that a resumed table is the same to the last bit.
            self._rows[name] = json.loads(json.dumps(dict(measure())))
            self._append({"key": name, "row": self._rows[name]})
        return self._rows[name]

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def digest(key: Mapping[str, Any]) -> str:
    """Name a key, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text("utf-8", errors="replace").splitlines() if line]
