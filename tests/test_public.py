"""The public face: names, weight of the import, order of the layers, size of the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cones

ROOT = Path(__file__).parents[1]
SOURCES = sorted(ROOT.glob("src/cones/**/*.py"))


def test_public_names_exist_and_have_docstrings() -> None:
    assert len(set(cones.__all__)) == len(cones.__all__)
    for name in cones.__all__:
        assert getattr(cones, name).__doc__
    assert set(cones.__all__) <= set(dir(cones))
    with pytest.raises(AttributeError, match="nothing"):
        cones.nothing  # noqa: B018


def test_the_import_is_light() -> None:
    code = "import sys, cones; sys.exit(any(m in sys.modules for m in ('torch', 'diffusers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_import_only_downwards() -> None:
    pytest.importorskip("importlinter")
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_files_are_small_documented_and_plain(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    assert ast.get_docstring(tree)
    assert "from __future__ import annotations" not in text
    assert "pickle.load" not in text
    if path.name != "plot.py":
        assert "import matplotlib" not in text
        assert "from matplotlib" not in text
