import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cones.scale import Submit, here
from experiments import __main__ as command
from experiments.kill import compared, contents
from experiments.small import small
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


def test_on_ray_workers_load_once_and_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, loaded, said = tiny_lab(tmp_path), list[command.Asked](), list[object]()

    @contextmanager
    def on_ray(*given: object) -> Iterator[tuple[Submit, int]]:
        said.extend(given)
        yield here(given[2]), 2

    def prepared(asked: command.Asked) -> tuple[object, None]:
        loaded.append(asked)
        return lab, None

    monkeypatch.setattr(command.scale, "on_ray", on_ray)
    monkeypatch.setattr(command, "prepared", cache(prepared))
    monkeypatch.chdir(tmp_path)
    asked = command.Asked("certificate", work=Path("work"), ray="auto", workers=2, docs=tmp_path)
    options = Options(("a_cat", "a_dog"), searches=1)
    command.performed(asked, lab, options)
    assert said == ["auto", 2, command.attempt]
    assert [(each.work, each.precision) for each in loaded] == [(tmp_path / "work", "float32")]
    found = json.loads((tmp_path / "results" / "certificate.json").read_text())
    assert found["cases"] == {"done": 2, "of": 2}
    command.performed(asked, lab, options, measure=False)
    assert len(said) == 3  # no Ray for a page


@pytest.mark.slow
def test_a_killed_worker_of_ray_loses_no_case(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    small().save_pretrained(tmp_path / "model")
    words = ["-m", "experiments", "run", "certificate", "--quick", "--precision", "float32"]
    words += ["--model", str(tmp_path / "model")]
    # Else workers stand back behind all others, and on a busy machine are given up.
    patient = {"RAY_worker_niceness": "0", "RAY_worker_register_timeout_seconds": "600"}
    patient |= os.environ
    for name, more in {"plain": [], "ray": ["--ray", "local", "--workers", "1"]}.items():
        folder, killed = tmp_path / name, 0
        where = ["--work", str(folder / "work"), "--docs", str(folder / "docs")]
        with subprocess.Popen([sys.executable, *words, *where, *more], env=patient) as process:
            while more and process.poll() is None and not killed:
                time.sleep(0.01)
                for owner in folder.glob("work/records/certificate/*.owner"):
                    killed = int(owner.read_text().split()[0])
                    os.kill(killed, signal.SIGKILL)
        assert process.returncode == 0
    assert killed
    log = tmp_path / "ray" / "work" / "records" / "certificate.log"
    states = [json.loads(line)["state"] for line in log.read_text().splitlines()]
    assert states == ["started", "failed", "started", "done"]
    log.unlink()
    found = compared(contents(tmp_path / "plain"), contents(tmp_path / "ray"))
    assert found == {"differing": [], "strays": []}
