from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments import __main__ as command
from experiments.lab import Effort
from experiments.studies import STUDIES
from experiments.study import Options
from tiny_lab import tiny_lab


def test_studies_are_named() -> None:
    found = CliRunner().invoke(command.app, ["list"])
    assert found.exit_code == 0
    assert all(name in found.stderr for name in STUDIES)


@pytest.mark.parametrize(("shard", "mine"), [(None, (0, 1)), ("1/3", (1, 3))])
def test_a_run_takes_its_shard_and_only_the_first_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str | None, mine: tuple[int, int]
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(command, "run", lambda *a, shard: calls.append((a[2].subjects, shard)))
    monkeypatch.setattr(command, "publish", lambda *a: calls.append("page"))
    options = Options(("a_cat", "a_dog"), effort=Effort(), quick=True)
    command.performed(["certificate"], tiny_lab(tmp_path), options, tmp_path, shard)
    assert calls == [(("a_cat",), mine), *(["page"] if mine[0] == 0 else [])]


def test_an_unknown_study_is_refused() -> None:
    found = CliRunner().invoke(command.app, ["run", "nothing"])
    assert found.exit_code == 2
