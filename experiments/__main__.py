"""Studies of the paper and beyond, and what tries to break the library.

run measures what has no record in the work folder yet, and writes results
and page; page writes them from the records alone. Cases are dealt out to
several processes by --shard, or under accelerate launch. A run can be
stopped at any moment, and goes on from there.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import PartialState
from rich.console import Console

from cones import ConesError, load_pipeline
from experiments import fuzz
from experiments.lab import PRECISIONS, QUICK, Effort, Lab
from experiments.metrics.examiner import load_examiner
from experiments.metrics.success import looks
from experiments.studies import STUDIES
from experiments.study import Options, compared_as, options_for, publish, run
from experiments.subjects import load_examples
from experiments.tables import write_results

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
SECONDS = 30.0  # between lines of progress inside a case

Named = Annotated[str, typer.Argument(metavar="STUDY", help="One or more, separated by commas.")]
Names = Annotated[str, typer.Option(help="Keys of subjects, separated by commas.")]
First = Annotated[int, typer.Option(help="Take only so many subjects; 0 is all.")]
Methods = Annotated[str, typer.Option(help="Only these methods, separated by commas.")]
Quick = Annotated[bool, typer.Option(help="Few subjects, prompts and steps: does all work?")]
Work = Annotated[Path, typer.Option(help="Keeps records, fits and pictures; goes on from there.")]
Docs = Annotated[Path | None, typer.Option(help="Gets pages and results; docs, or WORK if quick.")]
Shard = Annotated[str, typer.Option(help="i/n: measure every n-th subject from the i-th on.")]
Model = Annotated[str | None, typer.Option(help="Folder, file or hub name; the built-in model.")]
Searches = Annotated[int, typer.Option(min=1, help="Searches of every subject.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Pictures of every prompt; 8.")]
Precision = Annotated[str, typer.Option(help="float32 or bfloat16; the fastest of a CPU.")]


class Progress:
    """Says every case that is done, and now and then where the current one is."""

    def __init__(self) -> None:
        """Say nothing yet."""
        self.said = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say a line if it is a study's, or if the last is long ago."""
        if stage in STUDIES or time.monotonic() - self.said > SECONDS:
            self.said = time.monotonic()
            console.print(
                f"{time.strftime('%H:%M:%S')} {stage} {done}/{total} {note}", markup=False
            )


@dataclass(frozen=True)
class Asked:
    """What the command was asked for."""

    names: tuple[str, ...]
    subjects: str = ""
    first: int = 0
    methods: str = ""
    quick: bool = False
    work: Path = Path("work")
    docs: Path | None = None
    shard: str = ""
    model: str | None = None
    searches: int = 2
    seeds: int | None = None
    precision: str = ""

    @property
    def target(self) -> Path:
        """Say where pages go."""
        return self.docs or (self.work / "docs" if self.quick else Path("docs"))

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


def prepared(asked: Asked) -> tuple[Lab, Options]:
    """Load the model and choose the subjects."""
    examples = load_examples()
    chosen = _listed(asked.subjects, examples)
    own = chosen or [key for key, each in examples.items() if not each.tuning]
    own, effort = own[: asked.first or None], QUICK if asked.quick else Effort()
    tuning = [key for key in (chosen or examples) if examples[key].tuning]
    tuning = tuning[: 1 if asked.quick else asked.first or None]
    if asked.seeds:
        effort = replace(effort, pictures=asked.seeds)
    options = Options(tuple(own), tuple(tuning), asked.searches, effort=effort, quick=asked.quick)
    cases = [case for name in asked.names for case in STUDIES[name].cases(options)]
    methods = _listed(asked.methods, dict.fromkeys(str(compared_as(case)) for case in cases))
    options = replace(options, methods=tuple(methods))
    torch.set_flush_denormal(True)  # numbers near 0 else slow some processors tenfold
    pipeline = load_pipeline(asked.model, dtype="float32", device=PartialState().device)
    examiner = load_examiner() if any(STUDIES[name].judged for name in asked.names) else None
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


def performed(asked: Asked, lab: Lab, options: Options, *, measure: bool = True) -> None:
    """Run studies and write their pages; each of several shards writes what there is then."""
    if lab.examiner and measure:  # pages are made of records
        seen = {key: lab.examiner.read(each.photos()) for key, each in lab.examples.items()}
        known = {k: replace(e, looks=looks(seen[k], e.noun)) for k, e in lab.examples.items()}
        lab = replace(lab, examples=known)
    for study in [STUDIES[name] for name in asked.names]:
        own = options_for(study, options)
        if measure:
            run(study, lab, own, shard=asked.part)
            PartialState().wait_for_everyone()
        if asked.shard or PartialState().is_main_process:
            say(publish(study, lab, own, asked.target))


def say(path: Path) -> None:
    """Say what was written."""
    console.print(str(path), markup=False)


def add(name: str, said: str) -> None:
    """Add a command that runs studies, or only writes their pages."""

    @app.command(name, help=said)
    def command(
        study: Named,
        subjects: Names = "",
        first: First = 0,
        methods: Methods = "",
        quick: Quick = False,
        work: Work = Path("work"),
        docs: Docs = None,
        shard: Shard = "",
        model: Model = None,
        searches: Searches = 2,
        seeds: Seeds = None,
        precision: Precision = "",
    ) -> None:
        chosen = subjects, first, methods, quick, work, docs, shard
        names = tuple(_listed(study, STUDIES))
        asked = Asked(names, *chosen, model, searches, seeds, precision)
        performed(asked, *prepared(asked), measure=name == "run")


add("run", "Measure what has no record yet; write docs/STUDY.md and its results.")
add("page", "Write results and page of a study from its records.")


@app.command("all")
def run_all(
    quick: Quick = False, work: Work = Path("work"), docs: Docs = None, shard: Shard = ""
) -> None:
    """Run every study."""
    asked = Asked(tuple(STUDIES), quick=quick, work=work, docs=docs, shard=shard)
    performed(asked, *prepared(asked))


@app.command("list")
def list_all() -> None:
    """Name the studies."""
    for name, study in STUDIES.items():
        console.print(f"{name:<14} {study.title}", markup=False)


@app.command("fuzz")
def fuzz_files(
    seconds: Annotated[float, typer.Option(help="Ends after so many.")] = 60.0,
    mutants: Annotated[int, typer.Option(help="Of them, numbered from 0.")] = 10**6,
    work: Work = Path("work"),
    shard: Shard = "0/1",
) -> None:
    """Read mutants of concept files that have no record yet; write docs/results/fuzz.json."""
    fuzz.run(work / "fuzz", mutants=mutants, seconds=seconds, shard=numbered(shard))
    say(write_results(Path("docs"), "fuzz", fuzz.results(work / "fuzz")))


@app.command("kill")
def kill_commands(
    rounds: Annotated[int, typer.Option(help="Of each command.")] = 25,
    only: Annotated[str, typer.Option(help="Commands.")] = "find,generate,study,training",
    work: Work = Path("work"),
) -> None:
    """Kill commands at random moments, run them again; write docs/results/kill.json."""
    from experiments import kill  # loads all that is killed

    kill.run(work / "kill", only.split(","), rounds=rounds, say=console.print)
    say(write_results(Path("docs"), "kill", kill.results(work / "kill")))


@app.command("scale")
def run_scale(work: Work = Path("work")) -> None:
    """Search on Ray, where a worker is killed, and on two processes; write the results."""
    from experiments import scale  # loads all that searches

    say(write_results(Path("docs"), "scale", scale.results(work / "scale")))


@app.command("checkpoints")
def run_checkpoints(work: Work = Path("work"), docs: Path = Path("docs")) -> None:
    """Run everything on small models of every family; write docs/checkpoints.md."""
    from experiments import checkpoints  # loads every family

    say(checkpoints.run(work, docs, Progress()))


@app.command("memory")
def run_memory(work: Work = Path("work"), docs: Path = Path("docs")) -> None:
    """Measure memory and arithmetic of full-size models; write docs/checkpoints.md."""
    from experiments import memory  # loads every family

    say(memory.run(work, docs, Progress()))


@app.command("library")
def run_library(work: Work = Path("work")) -> None:
    """Time a library of 10,000 concept files; write docs/results/library.json."""
    from experiments import library

    say(write_results(Path("docs"), "library", library.run(work, Progress())))


@app.command("batch")
def run_batch() -> None:
    """Time batches of many concepts, and swaps; write docs/results/batch.json."""
    from experiments import batch

    say(write_results(Path("docs"), "batch", batch.run(Progress())))


def main() -> None:
    """Run the command; an error of the library is one line."""
    try:
        app()
    except (ConesError, FileNotFoundError) as error:
        console.print(f"error: {error}", markup=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
