"""What the fuzzer makes, how it judges, and that it goes on where it was."""

import json
from pathlib import Path

import pytest

from cones.concept_file import dumps, loads
from cones.errors import FileError
from experiments import fuzz
from experiments.fuzz import Mutant, bases, built, mutant, outcome, results

pytestmark = pytest.mark.usefixtures("unchecked")  # the reader itself must refuse


def test_a_mutant_depends_on_its_number_alone() -> None:
    assert built(mutant(7)) == built(mutant(7))
    assert len({built(mutant(number)) for number in range(40)}) > 35


def test_kinds_come_as_often_as_is_said() -> None:
    kinds = [mutant(number).kind for number in range(2000)]
    for kind, share in fuzz.KINDS.items():
        assert abs(kinds.count(kind) / 2000 - share / 1000) < 0.05


def test_without_edits_the_forged_file_is_read_as_the_same_concept() -> None:
    for number, (data, _, _) in enumerate(bases()):
        for kind in ("damage", "bytes", "field", "text"):
            again = loads(built(Mutant(kind, number, ())))
            assert again.levels == loads(data).levels
            assert dumps(again) == data


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_edits_change_the_file_and_its_digest_fits_unless_it_is_damage(kind: str) -> None:
    edits = [Mutant(kind, 0, (seed,)) for seed in range(12)]
    digests = [str(error(built(each))).count("the digest does not fit") for each in edits]
    assert any(built(each) != bases()[0][0] for each in edits)
    assert any(digests) if kind == "damage" else not any(digests)


def error(data: bytes) -> Exception | None:
    try:
        loads(data)
    except FileError as found:
        return found
    return None


@pytest.mark.parametrize(
    ("kind", "answer", "found"),
    [
        ("bytes", FileError("found x; expected y; do z"), "refused"),
        ("bytes", FileError("no"), "refused unclearly"),
        ("bytes", FileError("found \x1b; expected y; do z"), "refused unclearly"),
        ("bytes", KeyError("x"), "KeyError in test_fuzz.py: read"),
        ("bytes", MemoryError(), "MemoryError in test_fuzz.py: read"),
        ("bytes", None, "read"),
        ("damage", None, "a damaged file was read"),
    ],
)
def test_outcomes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, kind: str, answer: Exception | None, found: str
) -> None:
    whole = loads(bases()[0][0])

    def read(_: bytes) -> object:
        if answer:
            raise answer
        return whole

    monkeypatch.setattr(fuzz, "_used", lambda _: "")
    monkeypatch.setattr(fuzz.reader, "loads", read)
    cost: dict[str, float] = {}
    assert outcome(Mutant(kind, 0, ()), b"other", cost) == found
    assert cost["seconds"] >= 0 <= cost["megabytes"]


def test_a_run_counts_every_mutant_once_and_steps_over_one_that_kills_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "CHUNK", 4)

    def record(number: int, folder: Path, at: object, skipped: set[int]) -> None:
        for at.value in sorted({*range(number * 4, number * 4 + 4)} - skipped):  # pyright: ignore
            if at.value == 5:  # pyright: ignore
                raise SystemExit(9)
        counts = {"field.refused": 4 - len(skipped), "text.failed": 0}
        told = {"counts": counts, "worst": {"seconds": 0.5 + number, "megabytes": 1.0}}
        told |= {"failures": {}, "died": sorted(skipped)}
        (folder / f"{number:06d}.json").write_text(json.dumps(told))

    monkeypatch.setattr(fuzz, "record", record)
    fuzz.run(tmp_path, mutants=8, seconds=60, shard=(1, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["000001.json"]
    fuzz.run(tmp_path, mutants=8, seconds=60)
    found = results(tmp_path)
    assert (found["mutants"], found["refused"], found["failed"]) == (8, 7, 0)
    assert found["failures"] == {"died": {"count": 1, "number": 5}}
    assert found["worst"] == {"seconds": 1.5, "megabytes": 1.0}
    assert {row["kind"]: row["refused"] for row in found["kinds"]}["field"] == 7
