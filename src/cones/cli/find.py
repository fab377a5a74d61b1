"""The commands that search: ``find``, photos in and concept file out, and ``demo``, the whole job.

The demo's sheet is that of ``compare``, and below it stand both subjects together.
"""

import csv
import json
import shlex
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from typer import Argument, BadParameter, Exit, Option, echo

import cones
from cones.cli import console, options
from cones.cli.files import block, describe
from cones.errors import ConesError

if TYPE_CHECKING:
    from cones.models import Pipeline
    from cones.scale import Job, Told

SHIPPED = Path(cones.__file__).parent / "models" / "builtin" / "photos"
SUBJECTS = {"striped_cat": "cat", "zigzag_jar": "jar", "dotted_cup": "cup"}
PLACES = ("in the snow", "in a desert", "on the grass", "on a road", "in a room", "at night")
_Search = partial(Option, rich_help_panel="Search")
_Many = partial(Option, rich_help_panel="Many subjects")
NEEDED = ("photos", "noun", "out")  # columns of a table; identifier, others and settings may be
Photos = Annotated[
    list[Path] | None,
    Argument(help="Photos of one subject, or their folder; cut square.", show_default=False),
]
Noun = Annotated[str | None, Option(help="What the photos show: cat.", show_default=False)]
Output = Annotated[Path | None, options.Out(help="File to write.", dir_okay=False)]
Identifier = Annotated[str, Option(help="New word that will mean your subject.")]
Others = Annotated[Path | None, Option(help="Photos of other things of the noun [drawn].")]
Shipped: TypeAlias = Literal["striped_cat", "zigzag_jar", "dotted_cup"]
Key = Annotated[Shipped, Argument(help="Which of the photos that ship.")]


@dataclass(frozen=True)
class Many:
    """Which subjects, and where their searches run."""

    subjects: Annotated[
        Path | None,
        _Many(help="CSV file: photos, noun, out; also identifier, others and any setting."),
    ] = None
    ray: Annotated[
        str | None, _Many(metavar="ADDRESS", help="Search on Ray: local, auto or an address.")
    ] = None
    workers: Annotated[int | None, _Many(min=1, help="At once [one a GPU or machine].")] = None
    retries: Annotated[int, _Many(min=0, help="More tries after a worker or disk failed.")] = 1


def value_of(text: str) -> object:
    """Read the value of a setting: JSON, or a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Searching:
    """How to search: the settings that most people change, and all others by name."""

    density: Annotated[float | None, _Search(help="Share of weights to shut [0.0132].")] = None
    drift: Annotated[float | None, _Search(help="How far the model may move from itself.")] = None
    steps: Annotated[int | None, _Search(help="Search steps [300].")] = None
    seed: Annotated[int | None, _Search(help="Same seed, same concept [0].")] = None
    more: Annotated[
        list[str] | None,
        _Search("--set", metavar="NAME=VALUE", help="Any of cones.Settings: scope=cross; repeat."),
    ] = None
    paper: Annotated[bool, _Search("--paper", help="Start from the paper's settings.")] = False

    def settings(self) -> "cones.Settings":
        """Build the settings; a name or value that does not fit is refused."""
        chosen = {n: v for n, v in asdict(self).items() if v is not None}
        paper, more = chosen.pop("paper"), chosen.pop("more", [])
        chosen |= {n: value_of(value) for n, _, value in (text.partition("=") for text in more)}
        return (cones.Settings.paper() if paper else cones.Settings()).changed(chosen)


def find(
    *,
    photos: Photos = None,
    noun: Noun = None,
    output: Output = None,
    identifier: Identifier = "V*",
    others: Others = None,
    many: Many,
    searching: Searching,
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Find the concept neurons of the subject in your photos, or of many subjects.

    Writes the positions of these weights, the new word, and a certificate: what shutting them does
    on photos and prompts that the search never saw. For Stable Diffusion 1.x this takes 0.7 MB.

    The search is kept in OUTPUT.part until it is done: after Ctrl-C the same command goes on.
    Exit code 3 says that the certificate refuses: the subject was not gained. With --subjects
    many are found, one after another or on Ray; what is done and the same is skipped. Under
    accelerate launch all processes do one search.

    **Example:**  cones find photos/ --noun cat -o cat.safetensors
    """
    settings = searching.settings()
    if many.subjects and not (photos or noun or output):
        find_many(many, many.subjects, settings, loading, saving)
    elif many.subjects or many.ray or many.workers or not (photos and noun and output):
        raise BadParameter("give PHOTOS, --noun and --output, or --subjects without these")
    else:
        from cones.scale import Job

        words = {"identifier": identifier, "others": others, "overwrite": saving.overwrite}
        how = {"settings": settings, "loading": tuple(loading.given().items())}
        find_one(Job(tuple(photos), noun, output, **words, **how), loading, saving)


def find_one(job: "Job", loading: options.Loading, saving: options.Saving) -> None:
    """Search for one subject; of the processes of a launch the first writes and speaks."""
    from cones.scale import search
    from cones.search.resume import silent
    from cones.search.spread import one_search, place

    with one_search() as device:
        leads = place()[0] == 0
        if leads:
            saving.require(job.out)
            console.say(f"the search is kept in {job.work} until it is done")
        pipeline = replace(loading, device=loading.device or device).pipeline()
        with console.progress(f"the search so far is in {job.work}") as progress:
            concept = search(job, pipeline, progress if leads else silent)
    if concept is not None:
        saving.tell(block(job.out, concept), describe(job.out, concept))
        judge(concept)
        if not saving.as_json:
            suggest(job.out, concept, loading)


def find_many(
    many: Many,
    path: Path,
    settings: "cones.Settings",
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Search for the subjects of a table, say what came of each, and end by the worst."""
    from cones.scale import attempt, here, on_ray, run

    jobs, log = read(path, settings, loading, saving), Path(f"{path}.log")
    console.say(f"{len(jobs)} subjects; the log is {log}")
    with console.progress(f"what is done is in {log}") as progress:
        how = {"retries": many.retries, "progress": progress}
        alone = nullcontext((here(partial(attempt, progress=progress)), 1))
        with on_ray(many.ray, many.workers) if many.ray else alone as (submit, at_once):
            told = run(jobs, log, submit, at_once=at_once, **how)
    saving.tell("\n".join(map(line, told)), {"log": str(log), "subjects": told})
    failed = any(each["state"] == "failed" for each in told)
    if failed or any(each.get("verdict") == "not gained" for each in told):
        raise Exit(console.FAILED if failed else console.REFUSED)


def line(told: "Told") -> str:
    """Say what came of one subject."""
    state, seconds = told["state"], f"{told.get('seconds', '-')} s"
    return f"{state!s:<8}{told.get('verdict', '-')!s:<13}{seconds:>9}  {told['out']}" + (
        f": {told['error']}" if "error" in told else ""
    )


def read(
    path: Path, settings: "cones.Settings", loading: options.Loading, saving: options.Saving
) -> "list[Job]":
    """Read the table; paths in it are relative to its folder, and empty cells are left out."""
    from cones.scale import Job
    from cones.subject import check_words

    jobs, model = dict[Path, Job](), {"loading": tuple(loading.given().items())}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            cells = {str(n): str(v).strip() for n, v in row.items() if v and str(v).strip()}
            try:
                if lacking := [name for name in NEEDED if name not in cells]:
                    raise ConesError(f"no {lacking[0]}; expected {', '.join(NEEDED)}; add it")
                noun, word = cells.pop("noun"), cells.pop("identifier", "V*")
                check_words(word, noun)
                files = {n: cells.pop(n) for n in ("photos", "out", "others") if n in cells}
                paths = {n: (path.parent / each).resolve() for n, each in files.items()}
                if (out := paths["out"]) in jobs:
                    raise ConesError(f"out is {files['out']!r} again; expected another; rename it")
                own = settings.changed({name: value_of(cell) for name, cell in cells.items()})
            except ConesError as error:
                raise ConesError(f"{path}, line {number}: {error}") from error
            said = {"identifier": word, "others": paths.get("others"), "settings": own, **model}
            jobs[out] = Job((paths["photos"],), noun, out, overwrite=saving.overwrite, **said)
    if not jobs:
        raise ConesError(f"{path} names no subject; expected one a line; add some")
    return [*jobs.values()]


def judge(concept: "cones.Concept") -> None:
    """End with an exit code of its own if the certificate refuses; warn if it proves little."""
    verdict = concept.certificate.get("verdict")
    if verdict == "not gained":
        by_heart = concept.certificate["lead"]["low"] > 0
        found = "learnt the photos by heart" if by_heart else "did not learn the subject"
        advice = "--set prior_weight=3" if by_heart else "more --steps, --set prior_weight=0.3"
        told = f"the certificate refuses: the search {found}; try {advice}"
        console.warn(f"{told}, or photos on more different backgrounds")
        raise Exit(console.REFUSED)
    if verdict == "unavailable":
        console.warn("too few photos to keep one out: the certificate proves little; give four")


def suggest(path: Path, concept: "cones.Concept", loading: options.Loading) -> None:
    """Print the command that comes next, ready to be pasted into a shell."""
    said = {n: v if isinstance(v, tuple) else (v,) for n, v in loading.given().items()}
    model = [w for name, values in said.items() for v in values for w in (f"--{name}", str(v))]
    words = ("-c", str(path), f"{concept.prompt} in the snow", *model, "-o", "out")
    echo(f"next:  {shlex.join(('cones', 'generate', *words))}")


def demo(
    *,
    subject: Key = "striped_cat",
    output: options.Folder = Path("cones-demo"),
    searching: Searching,
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Show the whole job: find two subjects from photos, and draw them in new places.

    Writes two concept files and sheet.png: photos, the untouched model, a random mask, the
    concept, and both subjects together. After Ctrl-C the same command goes on.

    **Example:**  cones demo dotted_cup
    """
    settings, sheet = searching.settings(), output / "sheet.png"
    saving.require(sheet)
    pipeline, found = loading.pipeline(), {}
    other = next(name for name in SUBJECTS if name != subject)
    with console.progress(f"what was found is in {output}") as progress:
        searched = {"settings": settings, "progress": progress}
        for name, word in ((subject, "V*"), (other, "V2*")):
            noun, path = SUBJECTS[name], output / f"{SUBJECTS[name]}.safetensors"
            said = {"noun": noun, "identifier": word, "work": f"{path}.part"}
            found[path] = cones.find(pipeline, SHIPPED / name, **said, **searched)
            found[path].save(path)
        photos, both = SHIPPED / subject, [*found.values()]
        draw(pipeline, photos, both, sheet, seed=settings.seed, progress=progress)
    for path in found:
        shutil.rmtree(f"{path}.part", ignore_errors=True)
    verdicts = {str(path): each.certificate.get("verdict") for path, each in found.items()}
    told = "\n".join(f"{path}: {verdict}" for path, verdict in verdicts.items())
    saving.tell(f"{told}\nlook at {sheet}", {"sheet": str(sheet), "concepts": verdicts})
    if not saving.as_json:
        suggest(*next(iter(found.items())), loading)


def draw(
    pipeline: "Pipeline",
    photos: Path,
    concepts: "Sequence[cones.Concept]",
    path: Path,
    *,
    seed: int,
    progress: console.Notify,
) -> None:
    """Write the sheet: the first subject beside both controls, and all together."""
    from cones.drawing import save_png, sheet, stacked

    first, both = concepts[0].prompt, " next to ".join(each.prompt for each in concepts)
    prompts, seeds = [f"{first} {place}" for place in PLACES], range(seed, seed + len(PLACES))
    drawing = {"photos": photos, "seeds": [seed], "progress": progress}
    above = cones.compare(pipeline, concepts[0], prompts, **drawing)
    together = cones.generate(pipeline, concepts, both, seeds=seeds, progress=progress)
    page = stacked(above, sheet({both: together}))
    save_png(page, path, {"prompts": [*prompts, both], "seed": seed})
