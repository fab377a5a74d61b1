"""Studies of the paper and beyond, and what tries to break the library.

run measures what has no record in the work folder yet, and writes results
and page; page writes them from the records alone. Cases are dealt out to
several processes by --shard, or under accelerate launch, or to workers of Ray
by --ray. A run can be stopped at any moment, and goes on from there.
"""

import importlib
import json
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import PartialState
from rich.console import Console
from typer import Argument, Option

from cones import ConesError, load_pipeline, scale
from experiments.lab import PRECISIONS, QUICK, Effort, Lab
from experiments.metrics.examiner import load_examiner
from experiments.metrics.success import looks
from experiments.studies import STUDIES
from experiments.study import Job, Options, compared_as, measured, options_for, publish, run, share
from experiments.subjects import load_examples
from experiments.tables import write_results

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
SECONDS = 30.0  # between lines of progress inside a case
STUDYING = {
    "run": "Measure what has no record yet; write docs/STUDY.md and its results.",
    "page": "Write results and page of a study from its records.",
    "all": "Run every study.",
}
MEASURING = {
    "scale": "Search on Ray, where a worker is killed, and on two processes.",
    "checkpoints": "Run everything on small models of every family; write docs/checkpoints.md.",
    "memory": "Measure memory and arithmetic of full-size models; write docs/checkpoints.md.",
    "library": "Time a library of 10,000 concept files.",
    "batch": "Time batches of many concepts, and swaps.",
}
Work = Annotated[Path, Option(help="Keeps records, fits and pictures; goes on from there.")]
Shard = Annotated[str, Option(help="i/n: measure every n-th subject from the i-th on.")]


class Progress:
    """Says every case that is done, and now and then where the current one is."""

    def __init__(self) -> None:
        """Say nothing yet."""
        self.said = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say a line if it is a study's, or if the last is long ago."""
        if stage in STUDIES or time.monotonic() - self.said > SECONDS:
            self.said = time.monotonic()
            say(f"{time.strftime('%H:%M:%S')} {stage} {done}/{total} {note}")


@dataclass(frozen=True)
class Asked:
    """What the command was asked for: its arguments and options."""

    study: Annotated[str, Argument(help="One or more, separated by commas; all.")] = "all"
    subjects: Annotated[str, Option(help="Keys of subjects, separated by commas.")] = ""
    first: Annotated[int, Option(help="Take only so many subjects; 0 is all.")] = 0
    methods: Annotated[str, Option(help="Only these methods, separated by commas.")] = ""
    quick: Annotated[bool, Option(help="Few subjects, prompts and steps: does all work?")] = False
    work: Work = Path("work")
    docs: Annotated[Path | None, Option(help="For pages; docs, or WORK/docs if quick.")] = None
    shard: Shard = ""
    model: Annotated[str | None, Option(help="Folder, file or hub name; built-in.")] = None
    searches: Annotated[int, Option(min=1, help="Searches of every subject.")] = 2
    seeds: Annotated[int | None, Option(min=1, help="Pictures of every prompt; 8.")] = None
    precision: Annotated[str, Option(help="float32 or bfloat16; the fastest of a CPU.")] = ""
    ray: Annotated[str | None, Option(help="Measure on Ray: local, auto or an address.")] = None
    workers: Annotated[int | None, Option(min=1, help="On Ray; one a GPU or machine.")] = None

    @property
    def names(self) -> list[str]:
        """Name the studies."""
        return [*STUDIES] if self.study == "all" else _listed(self.study, STUDIES)

    @property
    def part(self) -> tuple[int, int]:
        """Say which of how many processes this is."""
        state = PartialState()
        return numbered(self.shard) if self.shard else (state.process_index, state.num_processes)


def numbered(shard: str) -> tuple[int, int]:
    """Read ``i/n``."""
    first, _, count = shard.partition("/")
    if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise typer.BadParameter(f"{shard!r} is no shard; expected 0/2 or 1/2, say")
    return int(first), int(count)


@cache  # a worker of Ray asks again for every case
def prepared(asked: Asked) -> tuple[Lab, Options]:
    """Load the model, choose the subjects, and let the examiner read their photos."""
    examples = load_examples()
    chosen = _listed(asked.subjects, examples)
    own = chosen or [key for key, each in examples.items() if not each.tuning]
    own, effort = own[: asked.first or None], QUICK if asked.quick else Effort()
    tuning = [key for key in (chosen or examples) if examples[key].tuning]
    tuning = tuning[: 1 if asked.quick else asked.first or None]
    if asked.seeds:
        effort = replace(effort, pictures=asked.seeds)
    options = Options(tuple(own), tuple(tuning), asked.searches, quick=asked.quick)
    cases = [case for name in asked.names for case in STUDIES[name].cases(options)]
    methods = _listed(asked.methods, dict.fromkeys(str(compared_as(case)) for case in cases))
    options = replace(options, methods=tuple(methods))
    torch.set_flush_denormal(True)  # numbers near 0 else slow some processors tenfold
    pipeline = load_pipeline(asked.model, dtype="float32", device=PartialState().device)
    examiner = load_examiner() if any(STUDIES[name].judged for name in asked.names) else None
    for key, each in examples.items() if examiner else ():
        examples[key] = replace(each, looks=looks(examiner.read(each.photos()), each.noun))
    precision = asked.precision or PRECISIONS[torch.cpu._is_avx512_bf16_supported()]
    _listed(precision, PRECISIONS)
    lab = Lab(pipeline, asked.work, examples, effort, examiner, Progress(), precision)
    return lab, options


def _listed(names: str, known: Iterable[str]) -> list[str]:
    """Split names at commas, and refuse what there is not."""
    found = [name for name in names.split(",") if name]
    if unknown := set(found) - set(known):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(known)}")
    return found


def attempt(job: Job) -> scale.Told:
    """Measure a case in a worker of Ray."""
    took = measured(STUDIES[job.study], prepared(job.asked)[0], json.loads(job.case))
    return {"seconds": round(took, 1)}


def performed(asked: Asked, lab: Lab, options: Options, *, measure: bool = True) -> None:
    """Run studies and write their pages; each of several shards writes what there is then."""
    same = replace(asked, work=asked.work.resolve(), precision=lab.precision)
    ray = scale.on_ray(asked.ray, asked.workers, attempt) if asked.ray and measure else None
    with ray or nullcontext() as workers:
        for study in [STUDIES[name] for name in asked.names]:
            own = options_for(study, options)
            if workers:
                share(study, lab, own, same, *workers)
            elif measure:
                run(study, lab, own, shard=asked.part)
                PartialState().wait_for_everyone()
            if asked.shard or PartialState().is_main_process:
                home = asked.work / "docs" if asked.quick else Path("docs")
                say(publish(study, lab, own, asked.docs or home))


def say(line: object) -> None:
    """Say a line, such as what was written."""
    console.print(str(line), markup=False)


def add_study(name: str, said: str) -> None:
    """Add a command that runs studies, or only writes their pages."""

    @app.command(name, help=said)
    @wraps(Asked, updated=())
    def command(**given: Any) -> None:  # noqa: ANN401 - fields of Asked
        asked = Asked(**given)
        performed(asked, *prepared(asked), measure=name != "page")


def add_measurement(name: str, said: str) -> None:
    """Add a command that measures the library rather than the method."""

    @app.command(name, help=f"{said} Results go to docs/results/{name}.json.")
    def command(work: Work = Path("work"), docs: Path = Path("docs")) -> None:
        module = importlib.import_module(f"experiments.{name}")  # loads all that it measures
        say(write_results(docs, name, module.results(work / name, Progress())))
        if name in ("checkpoints", "memory"):
            say(importlib.import_module("experiments.checkpoints").write_page(docs))


for _name, _said in STUDYING.items():
    add_study(_name, _said)
for _name, _said in MEASURING.items():
    add_measurement(_name, _said)


@app.command("list")
def list_all() -> None:
    """Name the studies."""
    for name, study in STUDIES.items():
        say(f"{name:<14} {study.title}")


@app.command("fuzz")
def fuzz_files(
    seconds: Annotated[float, Option(help="Ends after so many.")] = 60.0,
    mutants: Annotated[int, Option(help="Of them, numbered from 0.")] = 10**6,
    work: Work = Path("work"),
    shard: Shard = "0/1",
) -> None:
    """Read mutants of concept files that have no record yet; write docs/results/fuzz.json."""
    from experiments import fuzz

    fuzz.run(work / "fuzz", mutants=mutants, seconds=seconds, shard=numbered(shard))
    say(write_results(Path("docs"), "fuzz", fuzz.results(work / "fuzz")))


@app.command("kill")
def kill_commands(
    rounds: Annotated[int, Option(help="Of each command.")] = 25,
    only: Annotated[str, Option(help="Commands.")] = "find,generate,study,training",
    work: Work = Path("work"),
) -> None:
    """Kill commands at random moments, run them again; write docs/results/kill.json."""
    from experiments import kill  # loads all that is killed

    kill.run(work / "kill", only.split(","), rounds=rounds, say=say)
    say(write_results(Path("docs"), "kill", kill.results(work / "kill")))


def main() -> None:
    """Run the command; an error of the library is one line."""
    try:
        app()
    except (ConesError, FileNotFoundError) as error:
        say(f"error: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":  # what workers are sent has to be known under its own name
    importlib.import_module("experiments.__main__").main()
