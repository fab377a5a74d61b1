"""The program itself: version, ``python -m cones``, help, and what it loads."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cones
from cones.cli import COMMANDS

Run = Callable[..., object]
NAMES = [command.__name__ for command in COMMANDS]


def python(*words: str) -> subprocess.CompletedProcess[str]:
    command, where = [sys.executable, *words], {"PYTHONPATH": str(Path(cones.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=where)


def test_the_version_is_said(run: Run) -> None:
    assert run("--version").stdout == f"cones {cones.__version__}\n"


def test_python_m_cones_is_the_program_and_help_loads_no_torch() -> None:
    found = python("-X", "importtime", "-m", "cones", "--help")
    assert all(name in found.stdout for name in NAMES)
    assert " torch\n" not in found.stderr
    assert " diffusers\n" not in found.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shows_an_example_of_itself(name: str, run: Run) -> None:
    said = " ".join(run(name, "--help").stdout.split())
    assert f"Example: cones {name}" in said


def test_a_group_of_options_is_one_parameter(run: Run) -> None:
    said = run("generate", "--help").stdout
    assert said.index("--model") < said.index("--variant")
    assert "Draw over a photo" in said


def test_wrong_usage_ends_with_2(run: Run) -> None:
    run("find", "--nothing", code=2)
    run("generate", "-c", "a", "b", "-o", "c", "--dtype", "int8", code=2)
