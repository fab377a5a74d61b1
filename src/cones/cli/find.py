"""``cones find``: photos in, concept file out."""

import json
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from typer import Argument, Exit, Option

from cones.cli import console, options
from cones.cli.files import block, describe

if TYPE_CHECKING:
    from cones import Settings

_Search = partial(Option, rich_help_panel="Search")
Photos = Annotated[
    list[Path], Argument(help="Folder of photos of one subject, or photos.", show_default=False)
]
Scope: TypeAlias = Literal["both", "cross", "self"]
Noun = Annotated[str, Option(help="What the subject is: cat.", show_default=False)]
Identifier = Annotated[str, Option(help="New word that will mean your subject.")]
Others = Annotated[Path | None, Option(help="Photos of other such things; drawn if left out.")]


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
    verdict = concept.certificate.get("verdict")
    if verdict == "not gained":
        console.warn(
            "the certificate refuses: shutting these weights does not bring the subject out; "
            "try more --steps, a higher --drift or photos on more different backgrounds"
        )
        raise Exit(console.REFUSED)
    if verdict == "unavailable":
        console.warn("too few photos to keep one out: the certificate proves little; give four")
    if not saving.as_json:
        prompt = f"{concept.prompt} in the snow"
        console.suggest("cones", "generate", "-c", output, prompt, *loading.words, "-o", "out")
