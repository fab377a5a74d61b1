"""What the docs show is run: every command, every Python block, every link and make target.

In quick tests the built-in model is a tiny random one and a search takes two steps: they show that
what is written works as written. The slow one runs README with the model that ships.
"""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cones
from cones import Settings
from cones.cli import app
from cones.models import builtin
from cones.search.find import find
from fakes import tiny_pipeline

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
RUN = ("README.md", "docs/commands.md", "docs/python.md")
TINY = {
    "steps": 2,
    "score_steps": 2,
    "prior_count": 2,
    "prior_steps": 2,
    "batch": 2,
    "draws": 4,
    "density": 0.02,
}


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text("utf-8"), re.M | re.S)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cones ")]


def short(*given: object, **options: object) -> cones.Concept:
    """Search for two steps, whatever the settings."""
    return find(*given, **{**options, "settings": Settings(**TINY)})


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder where the built-in model is tiny and searches are short."""
    tiny_pipeline().save_pretrained(tmp_path / "weights")
    monkeypatch.setattr("cones.models.builtin.folder", lambda: tmp_path / "weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cones, "find", short, raising=False)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page: Path, *, verdicts: tuple[int, ...]) -> None:
    """Run the commands of a page for the built-in model in order, then its Python blocks."""
    for words in (words for words in commands(page) if "--model" not in words):
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (0, *verdicts), f"{words}: {result.output}"
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("name", RUN)
def test_everything_that_a_page_shows_runs(name: str, tiny: Path) -> None:
    run(ROOT / name, verdicts=(3,))  # chance decides whether two steps gain anything


@pytest.mark.slow
def test_the_readme_gains_its_subjects_on_the_model_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (Path(builtin.__file__).parent / "weights" / "model_index.json").is_file():
        pytest.skip("the built-in weights are not there")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    run(ROOT / "README.md", verdicts=())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in commands(page):
        command = group.commands[words[0]]
        command.make_context(words[0], words[1:])


def test_make_targets_and_local_links_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.S)
        for target in re.findall(r"^make ([a-z]+)", "\n".join(blocks(page, "sh")), re.M):
            assert f"\n{target}:" in makefile
        for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    filled = runpy.run_path(str(ROOT / "scripts" / "figures.py"))["filled"]
    for page in PAGES:
        text = page.read_text("utf-8")
        assert filled(text) == text, f"{page.name} is out of date: python scripts/figures.py"
    rows = [{"method": "lora", "success": 0.1}, {"method": "cones", "success": 0.614}]
    (tmp_path / "a.json").write_text(json.dumps({"n": 12, "rows": rows}))
    said = "TODO-FIGURE<!-- a.json rows.cones.success .0% --> of 7<!-- a.json n .0f -->"
    found = filled(said, tmp_path)
    assert re.sub("<!--.*?-->", "", found) == "61% of 12"
    assert filled(found, tmp_path) == found
    assert filled(said, tmp_path / "none") == said


def test_the_readme_is_one_screen_and_a_half() -> None:
    assert (ROOT / "README.md").read_text("utf-8").count("\n") <= 120
