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

from cones.cli import console, options
from cones.cli.files import block, describe
from cones.errors import SubjectError

if TYPE_CHECKING:
    from cones import Concept, Settings, Subject
    from cones.models import Pipeline

SUBJECTS = {"striped_cat": "cat", "zigzag_jar": "jar", "dotted_cup": "cup"}
PLACES = ("in the snow", "in a desert", "on the grass", "on a road", "in a room", "at night")
_Search = partial(Option, rich_help_panel="Search")
Photos = Annotated[
    list[Path], Argument(help="Folder of photos of one subject, or photos.", show_default=False)
]
Scope: TypeAlias = Literal["both", "cross", "self"]
Noun = Annotated[str, Option(help="What the photos show: cat.", show_default=False)]
Identifier = Annotated[str, Option(help="New word that will mean your subject.")]
Others = Annotated[Path | None, Option(help="Photos of other things of the noun [drawn].")]
Key = Annotated[str, Argument(help=f"Which of the photos that ship: {', '.join(SUBJECTS)}.")]


@dataclass(frozen=True)
class Searching:
    """How to search: the settings that most people change, and all others by name."""

    density: Annotated[float | None, _Search(help="Share of weights to shut [0.0132].")] = None
    drift: Annotated[float | None, _Search(help="How far the model may move from itself.")] = None
    steps: Annotated[int | None, _Search(help="Search steps [300].")] = None
    scope: Annotated[Scope | None, _Search(help="Kind of attention [both].")] = None
    seed: Annotated[int | None, _Search(help="Same seed, same concept [0].")] = None
    more: Annotated[
        list[str] | None,
        _Search("--set", metavar="NAME=VALUE", help="Any of cones.Settings: batch=4; repeat."),
    ] = None
    paper: Annotated[bool, _Search("--paper", help="Start from the paper's settings.")] = False

    def settings(self) -> "Settings":
        """Build the settings; a name or value that does not fit is refused."""
        import cones

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
    import cones
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


def judge(concept: "Concept") -> None:
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


def suggest(path: Path, concept: "Concept", loading: options.Loading) -> None:
    """Print the command that comes next, ready to be pasted into a shell."""
    words = ("-c", str(path), f"{concept.prompt} in the snow", *loading.words, "-o", "out")
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
    import cones

    settings, sheet = searching.settings(), output / "sheet.png"
    saving.require(sheet)
    pipeline, found = loading.pipeline(), {}
    shown = subjects(pipeline, subject)
    with console.progress(f"what was found is in {output}") as progress:
        searched = {"settings": settings, "progress": progress}
        for each in shown:
            path = output / f"{each.noun}.safetensors"
            found[path] = cones.find(pipeline, each, work=f"{path}.part", **searched)
            found[path].save(path)
        draw(pipeline, shown, list(found.values()), sheet, seed=settings.seed, progress=progress)
    for path in found:
        shutil.rmtree(f"{path}.part", ignore_errors=True)
    verdicts = {str(path): each.certificate.get("verdict") for path, each in found.items()}
    told = "\n".join(f"{path}: {verdict}" for path, verdict in verdicts.items())
    saving.tell(f"{told}\nlook at {sheet}", {"sheet": str(sheet), "concepts": verdicts})
    if not saving.as_json:
        suggest(*next(iter(found.items())), loading)


def subjects(pipeline: "Pipeline", key: str) -> "list[Subject]":
    """Read a subject that ships with the package, and another to draw beside it."""
    import cones
    from cones.models import builtin, model_for

    if key not in SUBJECTS:
        raise SubjectError(
            f"found the subject {key!r}; expected one of {', '.join(SUBJECTS)}; choose one, or "
            "use 'cones find' with photos of your own"
        )
    other = next(name for name in SUBJECTS if name != key)
    size, folder = model_for(pipeline).size, Path(builtin.__file__).parent / "photos"
    return [
        cones.Subject.from_folder(folder / name, noun=SUBJECTS[name], identifier=word, size=size)
        for name, word in ((key, "V*"), (other, "V2*"))
    ]


def draw(
    pipeline: "Pipeline",
    shown: "Sequence[Subject]",
    concepts: "Sequence[Concept]",
    path: Path,
    *,
    seed: int,
    progress: console.Notify,
) -> None:
    """Write the sheet: the first subject beside both controls, and all together."""
    import cones
    from cones.drawing import save_png, sheet, stacked

    prompts = [f"{shown[0].prompt} {place}" for place in PLACES]
    drawing = {"photos": shown[0], "seeds": [seed], "progress": progress}
    above = cones.compare(pipeline, concepts[0], prompts, **drawing)
    said, seeds = " next to ".join(each.prompt for each in shown), range(seed, seed + len(PLACES))
    together = cones.generate(pipeline, concepts, said, seeds=seeds, progress=progress)
    page = stacked(above, sheet({said: together}))
    save_png(page, path, {"prompts": [*prompts, said], "seed": seed})
