from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from experiments import __main__ as command
from experiments.studies import STUDIES
from experiments.study import Options
from fakes import tiny_pipeline
from tiny_lab import tiny_lab


def test_studies_are_named() -> None:
    found = CliRunner().invoke(command.app, ["list"])
    assert found.exit_code == 0
    assert all(name in found.stderr for name in STUDIES)


@pytest.mark.parametrize(("shard", "mine"), [("", (0, 1)), ("1/3", (1, 3))])
def test_a_run_takes_its_shard_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str, mine: tuple[int, int]
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(command, "run", lambda *a, shard: calls.append((a[2].subjects, shard)))
    monkeypatch.setattr(command, "publish", lambda *a: calls.append(a[3]) or a[3])
    options = Options(("a_cat", "a_dog"), quick=True)
    asked = command.Asked("certificate", quick=True, work=tmp_path, shard=shard)
    command.performed(asked, tiny_lab(tmp_path), options)
    assert calls == [(("a_cat",), mine), tmp_path / "docs"]
    command.performed(asked, tiny_lab(tmp_path / "2"), options, measure=False)
    assert calls[2:] == [tmp_path / "docs"]


@pytest.mark.parametrize("shard", ["2/2", "1", "a/2", "-1/2"])
def test_a_shard_that_there_is_not_is_refused(shard: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected 0/2 or 1/2"):
        command.Asked("certificate", shard=shard).part  # noqa: B018


def test_subjects_methods_and_pictures_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_pipeline", lambda *a, **k: tiny_pipeline())
    said = {"subjects": "daisy,witch_hat", "methods": "cones,lora", "seeds": 2, "searches": 1}
    lab, options = command.prepared(command.Asked("storage", **said, precision="float32"))
    assert options.subjects == ("daisy", "witch_hat")
    assert options.tuning == ("witch_hat",)
    assert options.methods == ("cones", "lora")
    assert (lab.effort.pictures, options.searches) == (2, 1)
    _, options = command.prepared(command.Asked("storage", first=3))
    assert (len(options.subjects), len(options.tuning)) == (3, 3)


@pytest.mark.parametrize("said", [{"subjects": "nobody"}, {"methods": "magic"}])
def test_an_unknown_subject_or_method_is_refused(said: dict[str, str]) -> None:
    with pytest.raises(typer.BadParameter, match="is none of"):
        command.prepared(command.Asked("storage", **said))


@pytest.mark.parametrize("name", ["run", "page"])
def test_studies_are_measured_unless_only_pages_are_wanted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(command, "prepared", lambda asked: (asked, "options"))
    monkeypatch.setattr(command, "performed", lambda *a, measure: calls.extend([*a, measure]))
    said = ["table1,storage", "--seeds", "2", "--searches", "1", "--work", "w"]
    assert CliRunner().invoke(command.app, [name, *said]).exit_code == 0
    asked = command.Asked("table1,storage", seeds=2, searches=1, work=Path("w"))
    assert calls == [asked, asked, "options", name == "run"]


def test_an_unknown_study_is_refused() -> None:
    found = CliRunner().invoke(command.app, ["run", "nothing"])
    assert found.exit_code == 2
