"""Fill the figures of README and docs from docs/results: ``python scripts/figures.py``.

A figure is followed by a comment that says where it comes from and how it is written:
``61%<!-- table1.json rows.cones.success .0% -->``. A list is searched for the row whose first
value is the key. Where a record is missing the figure stays as it is.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURE = re.compile(r"(TODO-FIGURE|[-\d.,]+%?)(<!-- (\w+\.json) ([\w.-]+) (\S+) -->)")


def look_up(record: object, path: str) -> object:
    """Follow a path of keys, and of first values in lists of rows."""
    for key in path.split("."):
        if isinstance(record, list) and key in ("0", "1"):  # of an interval
            record = record[int(key)]
        elif isinstance(record, list):
            record = next(row for row in record if str(next(iter(row.values()))) == key)
        else:
            record = record[key]
    return record


def filled(text: str, results: Path = ROOT / "docs" / "results") -> str:
    """Give a page with its figures as the records have them."""

    def figure(found: re.Match[str]) -> str:
        _, source, file, path, style = found.groups()
        if not (results / file).is_file():
            return found[0]
        value = look_up(json.loads((results / file).read_text("utf-8")), path)
        return f"{value:{style}}{source}"

    return FIGURE.sub(figure, text)


if __name__ == "__main__":
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
