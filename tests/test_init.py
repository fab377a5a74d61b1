"""The public names are where they are looked for, and their examples run."""

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest

import cones

STUB = Path(cones.__file__).with_suffix(".pyi")


def test_every_public_name_is_where_type_checkers_look_for_it() -> None:
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(STUB.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cones.")
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == {name: f"cones.{home}" for name, home in cones._HOMES.items()}
    assert set(cones.__all__) < set(dir(cones))


def test_verbs_are_functions_even_after_their_modules_were_imported() -> None:
    for name in ("load", "shut"):
        module = import_module(f"cones.{cones._HOMES[name]}")
        assert getattr(cones, name) is getattr(module, name)
        assert callable(getattr(cones, name))
    with pytest.raises(AttributeError, match="no attribute 'fnid'; it has"):
        cones.fnid  # noqa: B018


@pytest.mark.parametrize("name", ["mask", "intervention", "subject"])
def test_examples_run(name: str) -> None:
    found = doctest.testmod(import_module(f"cones.{name}"))
    assert found.attempted
    assert not found.failed
