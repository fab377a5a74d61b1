"""The measurement of a library: its concepts, and the ways to tell likeness."""

from pathlib import Path

import numpy as np
import pytest

import cones
from cones.library import Library
from experiments import library as study
from fakes import tiny_pipeline

TOTAL = 40_000


def test_families_share_tenths_of_their_neurons() -> None:
    first, sizes = study.neurons(10, TOTAL), []
    for number in range(10, 20):
        found = study.neurons(number, TOTAL)
        sizes.append(len(found))
        assert (np.diff(found) > 0).all()
        shared = len(np.intersect1d(found, first)) / len(first)
        assert shared == pytest.approx((number - 10) / 10 if number > 10 else 1, abs=0.05)
    assert min(sizes) > 0.95 * len(first) == 0.95 * round(study.DENSITY * TOTAL)
    assert len(np.intersect1d(first, study.neurons(20, TOTAL))) < 0.05 * len(first)


def test_all_ways_tell_the_same_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    concepts = [study.neurons(number, TOTAL) for number in range(20)]
    query = concepts[10]
    exact = [len(np.intersect1d(c, query)) / len(np.union1d(c, query)) for c in concepts]
    for way, (size, ask) in study.ways(concepts, TOTAL).items():
        assert size > 0
        found = ask(query)
        assert found.shape == (20,), way
        assert np.allclose(found, exact, atol=0.1 if way == "minhash" else 1e-9), way
    monkeypatch.setattr(study, "FEW", {"tiny": 20})
    rows = {row["way"]: row for row in study.compared("tiny", TOTAL)}
    assert rows["bitmaps"]["worst"] < 1e-9 < rows["minhash"]["rms"] < 0.03
    assert rows["bitmaps"]["key"] == "tiny-bitmaps"


def test_a_library_is_written_once_opened_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "COUNT", 4)
    monkeypatch.setattr(study, "DENSITY", 0.1)
    monkeypatch.setattr(cones, "load_pipeline", tiny_pipeline, raising=False)
    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: None)
    said: list[tuple] = []
    shapes = study.written(tmp_path, lambda *at: said.append(at))
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    assert study.written(tmp_path, lambda *at: said.append(at)) == shapes
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == times
    assert said[:4] == [("library", k, 4, "written") for k in (1, 2, 3, 4)]
    monkeypatch.setattr(study, "SD15", 500)
    rows = study.read(shapes)
    assert [row["key"] for row in rows] == ["built-in", "sd15"]
    assert rows[1]["bytes"] < rows[0]["bytes"]
    found = study.opened(tmp_path, shapes)
    assert [entry.words[0][1] for entry in Library(tmp_path).entries] == [*study.NOUNS]
    assert found["files"] == 4
    assert all(value > 0 for name, value in found.items() if name != "command_seconds")
