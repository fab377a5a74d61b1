"""What the docs show is run: every command, the Python block, the file map, the figures."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cones.cli import app
from fakes import Colours

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TINY = ["--set", "refine_steps=2", "--set", "prior_count=2", "--set", "prior_steps=2"]
TINY += ["--set", "batch=2", "--set", "held_out=4", "--set", "steps=2"]
DRAWN = ["--steps", "2"]  # of which an amount of 0.6 is one
SHORT = {"find": TINY, "refine": TINY, "demo": [*TINY, "-n", "1", *DRAWN]}
SHORT |= {"generate": DRAWN, "attend": DRAWN}
SHORT |= {"evaluate": [*TINY, "--images", "1", "--change", "lora.steps=1"]}
SETTINGS = "seed=0, steps=2, refine_steps=2, prior_count=2, prior_steps=2, batch=2, held_out=4"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """List the ``cones`` commands of a page, continued lines joined."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cones ")]


@pytest.fixture
def tiny(sd1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with the examples in it, where the built-in model is a tiny random one."""
    import cones.encoders
    import cones.metrics
    import cones.mini

    sd1.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(cones.mini, "weights_path", lambda: tmp_path / "model")
    monkeypatch.setattr(cones.metrics, "load_judge", Colours)
    monkeypatch.setattr(cones.encoders, "load_clip", lambda path: Colours())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_readme_runs_in_order(tiny: Path) -> None:
    shown = [words for words in commands(ROOT / "README.md") if words[0] not in ("bench", "ui")]
    assert {words[0] for words in shown} >= {"find", "generate", "show", "combine", "export"}
    for words in shown:
        result = CliRunner().invoke(app, [*words, *SHORT.get(words[0], [])])
        assert result.exit_code == 0, f"{words}: {result.output}"
    assert (tiny / "out" / "snow" / "sheet.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in commands(page):
        command, rest = group.commands[words[0]], words[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(" ".join(words), list(rest))


def test_the_python_of_the_readme_runs(tiny: Path) -> None:
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block.replace("seed=0", SETTINGS), "README.md", "exec"), {})
    assert (tiny / "cat.safetensors").is_file()


def test_make_targets_and_local_links_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(r"\bmake ([a-z]+)\b(?=`| |\n)", "\n".join(blocks(page, "sh"))):
            assert f"\n{target}:" in makefile
        for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_file_map_is_the_tree() -> None:
    (shown,) = [block for block in blocks(ROOT / "README.md", "text") if "src/cones/" in block]
    listed = {line.split()[0] for line in shown.splitlines()[1:]}
    tree = {p.relative_to(ROOT / "src/cones").as_posix() for p in ROOT.glob("src/cones/**/*.py")}
    assert listed == tree, "run: python scripts/refresh.py"


def test_figures_are_quoted_from_the_records() -> None:
    """Compare ``| 12.3 ms | `swap.json float32.cones.shut_ms.min` |`` with the record."""
    row = re.compile(r"\| (-?[\d.,]+)[^|]*\| `(\w+\.json) ([\w.]+)` \|")
    quoted = row.findall((ROOT / "README.md").read_text("utf-8"))
    assert quoted
    for shown, name, path in quoted:
        value: Any = json.loads((ROOT / "docs/results" / name).read_text("utf-8"))
        for key in path.split("."):
            value = value[key]
        digits = len(shown.partition(".")[2])
        assert round(float(value), digits) == float(shown.replace(",", "")), f"{name} {path}"
