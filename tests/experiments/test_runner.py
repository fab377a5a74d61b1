import json
import multiprocessing
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest

from cones.errors import ConesError, FileError
from cones.scale import Told, here
from experiments.lab import Effort, Lab
from experiments.studies import certificate
from experiments.study import (
    Case,
    Job,
    Options,
    Results,
    Row,
    Study,
    cases_of,
    frame,
    measured,
    publish,
    record_of,
    run,
    share,
    shared_out,
)
from holding import held
from tiny_lab import tiny_lab


@dataclass
class Counting:
    """A study without a model; it stops once before the case whose number is given."""

    stop: int = -1
    measured: list[int] = field(default_factory=list)

    def study(self) -> Study:
        return Study("certificate", "Counting", self.cases, self.measure, self.results)

    def cases(self, options: Options) -> list[Case]:
        return [{"subjects": [key], "k": k} for k, key in enumerate(options.subjects)]

    def measure(self, case: Case, lab: Lab) -> list[Row]:
        if case["k"] == self.stop:
            self.stop = -1
            raise KeyboardInterrupt
        self.measured.append(case["k"])
        return [{"double": 2 * case["k"], "inner": {"part": case["k"]}}]

    def results(self, table: pd.DataFrame, options: Options) -> Results:
        return {"sum": table["double"].sum()}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return tiny_lab(tmp_path)


OPTIONS = Options(("a_cat", "a_dog", "a_jar"))


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_interrupted_study_measures_only_what_is_missing(lab: Lab, stop: int) -> None:
    counting = Counting(stop)
    with pytest.raises(KeyboardInterrupt):
        run(counting.study(), lab, OPTIONS)
    run(counting.study(), lab, OPTIONS)
    run(counting.study(), lab, OPTIONS)
    assert counting.measured == [0, 1, 2]


def test_a_record_that_came_meanwhile_is_left_alone(lab: Lab) -> None:
    counting, case = Counting(), {"subjects": ["a_cat"], "k": 0}
    for _ in range(2):
        measured(counting.study(), lab, case)
    assert counting.measured == [0]
    assert len(list(record_of(counting.study(), lab, case).parent.iterdir())) == 1  # no lock


def test_a_case_that_another_run_is_at_is_refused_until_that_run_is_dead(lab: Lab) -> None:
    counting = Counting()
    record = record_of(counting.study(), lab, {"subjects": ["a_dog"], "k": 1})
    with held(record.with_suffix(".lock")) as other:
        said = f"in use by the process {other.pid} on .*; expected one run at a time; wait for it"
        with pytest.raises(FileError, match=said):
            run(counting.study(), lab, OPTIONS)
        assert counting.measured == [0]
        other.kill()
        other.wait()
        run(counting.study(), lab, OPTIONS)
    assert counting.measured == [0, 1, 2]


def test_two_processes_never_measure_the_same_case(lab: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def measure(case: Case, lab: Lab) -> list[Row]:
        with log.open("a") as file:
            file.write(f"{case['k']}\n")
        time.sleep(0.05)
        return [{"k": case["k"]}]

    study = replace(Counting().study(), measure=measure)
    assert lab.key  # what is known now need not be found out twice

    def insist(study: Study, lab: Lab) -> None:
        while True:
            with suppress(FileError):
                return run(study, lab, options)

    options, context = Options(OPTIONS.subjects * 4), multiprocessing.get_context("fork")
    others = [context.Process(target=insist, args=(study, lab)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert sorted(map(int, log.read_text().split())) == list(range(12))
    assert len(frame(study, lab, options)) == 12


def here_with(study: Study, lab: Lab, jobs: list[Job]) -> object:
    """Do in this process what workers would do."""

    def do(job: Job) -> Told:
        jobs.append(job)
        return {"seconds": measured(study, lab, json.loads(job.case))}

    return here(do)


def test_workers_measure_what_has_no_record_and_an_error_stops_no_other(lab: Lab) -> None:
    counting, jobs = Counting(), list[Job]()

    def measure(case: Case, lab: Lab) -> list[Row]:
        if case["k"] == 1 and len(jobs) < 5:  # two tries
            raise MemoryError("too large")
        return counting.measure(case, lab)

    study = replace(counting.study(), measure=measure)
    with pytest.raises(ConesError, match="1 of 3 cases of certificate failed; .*; .*log says why"):
        share(study, lab, OPTIONS, "asked", here_with(study, lab, jobs), 1)
    assert counting.measured == [0, 2]
    share(study, lab, OPTIONS, "asked", here_with(study, lab, jobs), 1)
    assert counting.measured == [0, 2, 1]
    assert [json.loads(job.case)["k"] for job in jobs] == [0, 1, 2, 1, 1]
    assert {(job.study, job.asked, job.out.exists()) for job in jobs} == {
        ("certificate", "asked", True)
    }
    log = (lab.work / "records" / "certificate.log").read_text()
    assert log.count('"state": "done"') == 3
    assert log.count("MemoryError: too large") == 2


def test_neighbours_in_the_queue_are_of_different_subjects(lab: Lab) -> None:
    cases = [{"subjects": [key], "k": k} for key in ("a_cat", "a_dog") for k in range(3)]
    cases += [{"subjects": ["a_jar"], "k": 0}]
    study, jobs = replace(Counting().study(), cases=lambda options: cases), list[Job]()
    share(study, lab, OPTIONS, "asked", here_with(study, lab, jobs), 1)
    found = [json.loads(job.case) for job in jobs]
    assert [each["subjects"][0][2] + str(each["k"]) for each in found] == [
        *("c0", "d0", "j0"),
        *("c1", "d1"),
        *("c2", "d2"),
    ]


def test_rows_have_the_columns_of_their_case(lab: Lab) -> None:
    counting = Counting()
    run(counting.study(), lab, OPTIONS)
    table = frame(counting.study(), lab, OPTIONS)
    assert table.to_dict("list") == {
        "subjects": ["a_cat", "a_dog", "a_jar"],
        "k": [0, 1, 2],
        "double": [0, 2, 4],
        "inner.part": [0, 1, 2],
    }


def test_shards_share_the_work(lab: Lab) -> None:
    parts = [Counting(), Counting()]
    for k, part in enumerate(parts):
        run(part.study(), lab, OPTIONS, shard=(k, 2))
    assert [part.measured for part in parts] == [[0, 2], [1]]


def test_all_methods_of_a_subject_fall_to_one_shard() -> None:
    keys = ("a_cat", "a_dog", "a_jar")
    cases = [{"subjects": [key], "method": m} for key in keys for m in ("cones", "lora")]
    parts = [shared_out(cases, (k, 2)) for k in range(2)]
    assert [case["subjects"][0] for case in parts[0]] == ["a_cat", "a_cat", "a_jar", "a_jar"]
    assert sorted(map(str, parts[0] + parts[1])) == sorted(map(str, cases))


def test_only_the_chosen_methods_are_taken() -> None:
    cases = [{"method": name} for name in ("cones", "lora", "words")]
    cases += [{"kind": "lora"}, {"kind": "other"}, {"seed": 0}]
    study = replace(Counting().study(), cases=lambda options: cases)
    assert cases_of(study, Options(())) == cases
    found = cases_of(study, Options((), methods=("lora", "words")))
    assert found == [{"method": "lora"}, {"method": "words"}, {"kind": "lora"}, {"seed": 0}]


def test_a_record_depends_on_case_effort_and_photos(lab: Lab) -> None:
    study, case = Counting().study(), {"subjects": ["a_cat"], "k": 0}
    changed = replace(lab.examples["a_cat"])
    changed.__dict__["digest"] = "other photos"
    labs = [lab, replace(lab, effort=Effort()), replace(lab, examples={"a_cat": changed})]
    found = {record_of(study, each, case).name for each in labs}
    found |= {record_of(study, lab, {**case, "k": 1}).name}
    assert len(found) == 4


def test_a_page_without_records_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no record.*expected.*run it"):
        publish(Counting().study(), lab, OPTIONS, tmp_path)


def test_a_study_from_case_to_page(lab: Lab, tmp_path: Path) -> None:
    options = Options(("a_cat",), searches=1)
    docs = tmp_path / "docs"
    run(certificate.STUDY, lab, options)
    page = publish(certificate.STUDY, lab, options, docs).read_text()
    results = json.loads((docs / "results" / "certificate.json").read_text())
    assert [row["subject"] for row in results["subjects"]] == ["a_cat"]
    assert results["cases"] == {"done": 1, "of": 1}
    assert f"{results['mean']['gain_new']['mean']:.4f}" in page
    assert "Not complete" not in page
    publish(certificate.STUDY, lab, replace(options, searches=2), docs)
    assert "1 of 2 cases" in (docs / "certificate.md").read_text()
