"""``cones library``: a folder of concept files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cones

Run = Callable[..., object]


def test_library_lists_finds_and_says_what_is_damaged(
    run: Run, cat: Path, jar: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad\x1b[31m.safetensors").write_text("hello")
    said = run("library", tmp_path).stdout
    assert f"my cat.safetensors: V* cat, {cones.load(cat).density:.2%}, no cert" in said
    assert "bad?[31m.safetensors: error: the first of 5 bytes" in said
    assert all(line.isprintable() for line in said.splitlines())
    (found,) = json.loads(run("library", tmp_path, "--noun", "jar", "--json").stdout)
    assert found["path"] == str(jar)
    assert found["words"] == [["V2*", "jar"]]
    assert found["density"] == cones.load(jar).density
    assert run("library", tmp_path, "--base", "other").stdout == "no such files\n"


def test_library_shows_what_is_near_and_related(
    run: Run, refused: Run, cat: Path, jar: Path, tmp_path: Path
) -> None:
    run("combine", cat, jar, "-o", tmp_path / "both.safetensors")
    lines = run("library", tmp_path, "near", cat).stdout.splitlines()
    assert [line.partition(".")[0] for line in lines] == ["my cat", "both", "jar"]
    assert lines[0].endswith("100.0% alike")
    assert lines[1].endswith("alike, made of it")
    shown = json.loads(run("library", tmp_path, "near", "both.safetensors", "--json").stdout)
    assert [each["note"].partition(", ")[2] for each in shown] == ["", *["a part of it"] * 2]
    shown = json.loads(run("library", tmp_path, "near", cat, "--noun", "jar", "--json").stdout)
    assert {Path(each["path"]).stem for each in shown} == {"jar", "both"}
    refused("library", tmp_path, "near", match="'near' without a file")
    refused("library", tmp_path / "none", match="is no folder")


def test_a_library_that_has_not_changed_is_listed_without_torch(
    run: Run, cat: Path, tmp_path: Path
) -> None:
    said = run("library", tmp_path).stdout
    command = [sys.executable, "-X", "importtime", "-m", "cones", "library", str(tmp_path)]
    where = {"PYTHONPATH": str(Path(cones.__file__).parents[1])}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=where)
    assert found.stdout == said
    assert " torch\n" not in found.stderr
