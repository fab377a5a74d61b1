"""The command of the studies: ``python -m experiments run STUDY``.

``run`` measures what has no record and writes results and page; ``page`` writes them from the
records; ``list`` names the studies; ``all`` runs every one. Under ``accelerate launch`` the cases
are dealt out to the processes; ``--shard i/n`` does so by hand.
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from accelerate import PartialState
from rich.console import Console

from cones import ConesError, load_pipeline
from experiments.lab import QUICK, Effort, Lab
from experiments.studies import STUDIES
from experiments.study import Options, options_for, publish, run
from experiments.subjects import load_examples

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
SECONDS = 30.0  # between lines of progress inside a case

Names = Annotated[str, typer.Option(help="Keys of subjects, separated by commas.")]
Quick = Annotated[bool, typer.Option(help="Few subjects, prompts and steps: does all work?")]
Work = Annotated[Path, typer.Option(help="Keeps records, fits and pictures; goes on from there.")]
Docs = Annotated[Path | None, typer.Option(help="Gets pages and results; docs, or WORK if quick.")]
Shard = Annotated[str | None, typer.Option(help="i/n: measure every n-th case from the i-th on.")]
Model = Annotated[str | None, typer.Option(help="Folder, file or hub name; the built-in model.")]
Searches = Annotated[int, typer.Option(min=1, help="Searches of every subject.")]


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


def prepared(
    names: list[str], subjects: str, quick: bool, work: Path, model: str | None, searches: int
) -> tuple[Lab, Options]:
    """Load the model and choose the subjects."""
    examples = load_examples()
    chosen = [key for key in subjects.split(",") if key]
    if unknown := set(chosen) - set(examples):
        raise typer.BadParameter(f"{min(unknown)!r} is none of {', '.join(examples)}")
    own = chosen or [key for key, each in examples.items() if not each.tuning]
    tuning = [key for key, each in examples.items() if each.tuning]
    effort = QUICK if quick else Effort()
    options = Options(tuple(own), tuple(tuning[:1] if quick else tuning), searches, effort, quick)
    pipeline = load_pipeline(model, dtype="float32", device=PartialState().device)
    examiner = None
    if any(STUDIES[name].judged for name in names):
        from experiments.metrics.examiner import load_examiner  # has weights of its own

        examiner = load_examiner()
    return Lab(pipeline, work, examples, effort, examiner, Progress()), options


def performed(names: list[str], lab: Lab, options: Options, docs: Path, shard: str | None) -> None:
    """Run studies and write their pages."""
    state = PartialState()
    part = (state.process_index, state.num_processes)
    if shard:
        first, _, count = shard.partition("/")
        part = (int(first), int(count))
    for study in [STUDIES[name] for name in names]:
        run(study, lab, options_for(study, options), shard=part)
        state.wait_for_everyone()
        if part[0] == 0:
            console.print(
                str(publish(study, lab, options_for(study, options), docs)), markup=False
            )


@app.command("run")
def run_one(
    study: str,
    subjects: Names = "",
    quick: Quick = False,
    work: Work = Path("work"),
    docs: Docs = None,
    shard: Shard = None,
    model: Model = None,
    searches: Searches = 2,
) -> None:
    """Measure what has no record yet; write docs/results/STUDY.json and docs/STUDY.md."""
    lab, options = prepared(known(study), subjects, quick, work, model, searches)
    performed([study], lab, options, docs or (work / "docs" if quick else Path("docs")), shard)


@app.command("page")
def page_one(
    study: str,
    subjects: Names = "",
    quick: Quick = False,
    work: Work = Path("work"),
    docs: Docs = None,
    model: Model = None,
    searches: Searches = 2,
) -> None:
    """Write results and page of a study from its records."""
    lab, options = prepared(known(study), subjects, quick, work, model, searches)
    target = docs or (work / "docs" if quick else Path("docs"))
    found = options_for(STUDIES[study], options)
    console.print(str(publish(STUDIES[study], lab, found, target)), markup=False)


@app.command("all")
def run_all(quick: Quick = False, work: Work = Path("work"), docs: Docs = None) -> None:
    """Run every study."""
    lab, options = prepared(list(STUDIES), "", quick, work, None, 2)
    performed(
        list(STUDIES), lab, options, docs or (work / "docs" if quick else Path("docs")), None
    )


@app.command("list")
def list_all() -> None:
    """Name the studies."""
    for name, study in STUDIES.items():
        console.print(f"{name:<14} {study.title}", markup=False)


def known(name: str) -> list[str]:
    """Refuse a study that there is not."""
    if name not in STUDIES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(STUDIES)}")
    return [name]


def main() -> None:
    """Run the command; an error of the library is one line."""
    try:
        app()
    except (ConesError, FileNotFoundError) as error:
        console.print(f"error: {error}", markup=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
