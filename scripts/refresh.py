"""Bring README.md up to date: the file map from docstrings, figures from docs/results."""

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAP = re.compile(r"```text\nsrc/cones/\n.*?```", re.S)
FIGURE = re.compile(r"\| (-?[\d.,]+)([^|]*)\| `(\w+\.json) ([\w.]+)` \|")


def file_map() -> str:
    """List every module with the first sentence of its docstring."""
    sources = ROOT / "src/cones"
    lines = []
    for path in sorted(sources.rglob("*.py"), key=lambda p: (p.parent != sources, p.as_posix())):
        said = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0]
        said = re.sub(r":\w+:|`", "", " ".join(said.split())).rstrip(".")
        lines.append(f"{path.relative_to(sources).as_posix():<24} {said}")
    return "\n".join(["```text", "src/cones/", *lines, "```"])


def figure(found: re.Match) -> str:
    """Quote a figure with as many digits as before."""
    shown, unit, name, path = found.groups()
    value: Any = json.loads((ROOT / "docs/results" / name).read_text("utf-8"))
    for key in path.split("."):
        value = value[key]
    digits = len(shown.partition(".")[2])
    return f"| {value:,.{digits}f}{unit}| `{name} {path}` |"


def main() -> None:
    """Rewrite README.md."""
    page = ROOT / "README.md"
    text = MAP.sub(lambda _: file_map(), page.read_text("utf-8"))
    page.write_text(FIGURE.sub(figure, text), "utf-8")


if __name__ == "__main__":
    main()
