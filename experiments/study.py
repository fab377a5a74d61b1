"""The runner of every study: cases in, one record a case, a results file and a page out.

A case is plain values. Its rows are written whole, to a file whose name holds all they depend on;
what is there is skipped, so that a study can be stopped at any moment, run in shards, and rerun
for nothing. A page is a function of the results file alone.
"""

import json
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from cones import scale
from cones.errors import ConesError
from cones.files import alone, write_atomic
from experiments.lab import Lab
from experiments.methods.fits import digest
from experiments.tables import page, plain, write_results

Case: TypeAlias = dict[str, Any]  # JSON values; "subjects" lists the keys of the subjects
Row: TypeAlias = dict[str, Any]  # JSON values; mappings in it become columns "a.b"
Results: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What a study is run on."""

    subjects: tuple[str, ...]  # keys of those that it measures
    tuning: tuple[str, ...] = ()  # keys of those that choices may be set by
    searches: int = 2  # of every subject
    quick: bool = False  # cases may be thinned out: it is only tried whether all works
    methods: tuple[str, ...] = ()  # measured, where methods are compared; a page shows all


@dataclass(frozen=True)
class Study:
    """One question: which cases, what is measured of one, what is made of the rows.

    ``measure`` is called only where there is no record. The table for ``results`` and ``figure``
    has the columns of cases and rows.
    """

    name: str  # of the records, the results file, the page and its template
    title: str
    cases: Callable[[Options], list[Case]]
    measure: Callable[[Case, Lab], list[Row]]
    results: Callable[[pd.DataFrame, Options], Results]
    judged: bool = True  # needs the examiner
    least: int = 1  # subjects that it needs; a quick run takes no more
    figure: Callable[[pd.DataFrame, Lab, Path], None] | None = None  # into the page's folder


def options_for(study: Study, options: Options) -> Options:
    """Give a quick run of a study as many subjects as it needs; leave any other as it is."""
    if not options.quick:
        return options
    return replace(options, subjects=options.subjects[: study.least], searches=1)


def cases_of(study: Study, options: Options) -> list[Case]:
    """List the cases of a study, of the chosen methods if there are any."""
    cases, chosen = study.cases(options), options.methods
    return [case for case in cases if not chosen or compared_as(case) in (None, *chosen)]


def compared_as(case: Case) -> str | None:
    """Say what a case is one of: a method, or a kind of comparison."""
    return case.get("method", case.get("kind"))


def shared_out(cases: Sequence[Case], shard: tuple[int, int]) -> list[Case]:
    """Give one of ``n`` processes the cases of every n-th subject or group.

    Methods of one subject build on each other: so no process waits for another.
    """
    groups = list(dict.fromkeys(tuple(case.get("subjects", ())) for case in cases))
    mine = set(groups[shard[0] :: shard[1]])
    return [case for case in cases if tuple(case.get("subjects", ())) in mine]


def run(study: Study, lab: Lab, options: Options, *, shard: tuple[int, int] = (0, 1)) -> None:
    """Measure the cases that have no record yet, as the i-th of n processes."""
    mine = shared_out(cases_of(study, options), shard)
    missing = [case for case in mine if not record_of(study, lab, case).exists()]
    started = time.monotonic()
    for done, case in enumerate(missing, 1):
        seconds = measured(study, lab, case)
        left = (time.monotonic() - started) / done * (len(missing) - done)
        label = " ".join("+".join(v) if isinstance(v, list) else str(v) for v in case.values())
        note = f"{seconds:.0f} s, about {left / 60:.0f} min left: {label}"
        lab.progress(study.name, len(mine) - len(missing) + done, len(mine), note)


def measured(study: Study, lab: Lab, case: Case) -> float:
    """Measure a case unless another process is at it, a FileError; give the seconds it took."""
    path, begun = record_of(study, lab, case), time.monotonic()
    with alone(path.with_suffix(".lock")):
        if not path.exists():  # it may have come meanwhile
            rows = study.measure(case, lab)
            found = {"study": study.name, "case": case, **lab.told, "rows": rows}
            found["seconds"] = round(time.monotonic() - begun, 1)
            write_atomic(path, json.dumps(found, indent=1).encode())
    return time.monotonic() - begun


class Job(NamedTuple):
    """A case without a record, as a worker of Ray is told of it."""

    out: Path  # its record
    key: str  # stands for all that it depends on
    study: str
    case: str  # JSON
    asked: Hashable  # of the command: what the worker makes a lab of


def share(
    study: Study, lab: Lab, options: Options, asked: Hashable, submit: scale.Submit, at_once: int
) -> None:
    """Let workers measure the cases that have no record, as searches are done on Ray.

    Raises:
        ConesError: Some have none in the end.
    """
    log, jobs = lab.work / "records" / f"{study.name}.log", []
    cases = pd.Series(cases_of(study, options))
    turns = cases.groupby(cases.map(lambda case: str(case.get("subjects")))).cumcount()
    for case in cases[turns.sort_values(kind="stable").index]:  # so that no worker waits
        if not (path := record_of(study, lab, case)).exists():
            jobs.append(Job(path, path.stem, study.name, json.dumps(case), asked))
    log.parent.mkdir(parents=True, exist_ok=True)
    told = {"progress": lambda _, *at: lab.progress(study.name, *at)}
    scale.run(jobs, log, submit, at_once=at_once, **told)
    if left := sum(not job.out.exists() for job in jobs):
        raise ConesError(
            f"{left} of {len(jobs)} cases of {study.name} failed; expected a record of each; "
            f"{log} says why; run the same again"
        )


def frame(study: Study, lab: Lab, options: Options) -> pd.DataFrame:
    """Gather the rows of all records there are; every row has the columns of its case too."""
    rows = []
    for case in study.cases(options):
        path = record_of(study, lab, case)
        if path.exists():
            shared = {n: "+".join(v) if isinstance(v, list) else v for n, v in case.items()}
            record = json.loads(path.read_text("utf-8"))
            rows += [shared | row for row in record["rows"]]
    return pd.json_normalize(rows)


def publish(study: Study, lab: Lab, options: Options, docs: Path) -> Path:
    """Write ``docs/results/<name>.json`` from the records, and the page from that; give its path.

    Raises:
        ValueError: There is no record yet.
    """
    table = frame(study, lab, options)
    if table.empty:
        raise ValueError(
            f"found no record of {study.name}; expected one at least; run it in this work folder"
        )
    cases = study.cases(options)
    done = sum(record_of(study, lab, case).exists() for case in cases)
    head = {"name": study.name, "title": study.title, "weights": lab.key}
    head |= {**lab.told, "model": lab.model.name, "searches": options.searches}
    head |= {"cases": {"done": done, "of": len(cases)}}
    judge = getattr(lab.examiner, "accuracy", {}) if study.judged else {}
    head["judge"] = {name: share for name, share in judge.items() if "direct" not in name}
    results = plain(head | study.results(table, options))
    write_results(docs, study.name, results)
    if study.figure is not None:
        study.figure(table, lab, docs)
    target = docs / f"{study.name}.md"
    write_atomic(target, page(f"{study.name}.md", results=results).encode())
    return target


def record_of(study: Study, lab: Lab, case: Case) -> Path:
    """Say where the record of a case lies."""
    photos = [lab.examples[key].digest for key in case.get("subjects", ())]
    key = {"study": study.name, "case": case, "photos": photos, **lab.told}
    return lab.work / "records" / study.name / f"{digest(key)}.json"
