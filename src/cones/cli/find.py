"""The commands that search: ``find``, photos in and concept file out, and ``demo``, the whole job.

The demo's sheet shows photos, then the same prompts and noise drawn three times: by the untouched
model, with a random mask of the same density in every layer, and with the concept. Only if the
last row alone looks like the photos has anything been shown. Below stand both subjects together.
"""

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from typer import Argument, Exit, Option, echo

import cones
from cones.cli import console, options
from cones.cli.files import block, describe

if TYPE_CHECKING:
    from cones.models import Pipeline

SHIPPED = Path(cones.__file__).parent / "models" / "builtin" / "photos"
SUBJECTS = {"striped_cat": "cat", "zigzag_jar": "jar", "dotted_cup": "cup"}
PLACES = ("in the snow", "in a desert", "on the grass", "on a road", "in a room", "at night")
_Search = partial(Option, rich_help_panel="Search")
Photos = Annotated[
    list[Path], Argument(help="Folder of photos of one subject, or photos.", show_default=False)
]
Noun = Annotated[str, Option(help="What the photos show: cat.", show_default=False)]
Identifier = Annotated[str, Option(help="New word that will mean your subject.")]
Others = Annotated[Path | None, Option(help="Photos of other things of the noun [drawn].")]
Shipped: TypeAlias = Literal["striped_cat", "zigzag_jar", "dotted_cup"]
Key = Annotated[Shipped, Argument(help="Which of the photos that ship.")]


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
        for name, _, value in (text.partition("=") for text in more):
            try:
                chosen[name] = json.loads(value)
            except ValueError:
                chosen[name] = value
        return (cones.Settings.paper() if paper else cones.Settings()).changed(chosen)


def find(
    *,
    photos: Photos,
    noun: Noun,
    output: options.File,
    identifier: Identifier = "V*",
    others: Others = None,
    searching: Searching,
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Find the concept neurons of the subject in your photos.

    Writes the positions of these weights, the new word, and a certificate: what shutting them does
    on photos and prompts that the search never saw. For Stable Diffusion 1.x this takes 0.7 MB.

    The search is kept in OUTPUT.part until it is done: after Ctrl-C the same command goes on.
    Exit code 3 says that the certificate refuses: the subject was not gained.

    **Example:**  cones find photos/ --noun cat -o cat.safetensors
    """
    from cones.search.resume import owned

    settings = searching.settings()
    saving.require(output)
    source = photos[0] if len(photos) == 1 else photos
    pipeline, work = loading.pipeline(), output.with_name(f"{output.name}.part")
    console.say(f"the search is kept in {work} until it is done")
    with owned(work), console.progress(f"the search so far is in {work}") as progress:
        searched = {"settings": settings, "others": others, "work": work, "progress": progress}
        concept = cones.find(pipeline, source, noun=noun, identifier=identifier, **searched)
        saving.require(output)  # hours may have passed
        concept.save(output)
        shutil.rmtree(work, ignore_errors=True)
    saving.tell(block(output, concept), describe(output, concept))
    judge(concept)
    if not saving.as_json:
        suggest(output, concept, loading)


def judge(concept: "cones.Concept") -> None:
    """End with an exit code of its own if the certificate refuses; warn if it proves little."""
    verdict = concept.certificate.get("verdict")
    if verdict == "not gained":
        console.warn(
            "the certificate refuses: shutting these weights does not bring the subject out; "
            "try more --steps, a higher --drift or photos on more different backgrounds"
        )
        raise Exit(console.REFUSED)
    if verdict == "unavailable":
        console.warn("too few photos to keep one out: the certificate proves little; give four")


def suggest(path: Path, concept: "cones.Concept", loading: options.Loading) -> None:
    """Print the command that comes next, ready to be pasted into a shell."""
    model = [w for n, value in asdict(loading).items() if value for w in (f"--{n}", str(value))]
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
