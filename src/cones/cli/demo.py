"""``cones demo``: the whole job on the built-in model, from photos to pictures in new places.

The sheet shows photos, then the same prompts and noise drawn three times: by the untouched model,
with a random mask of the same density in every layer, and with the concept. Only if the last row
alone looks like the photos has anything been shown. Under it stand both subjects together.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from cones.cli import console, options
from cones.cli.find import Searching
from cones.errors import SubjectError

if TYPE_CHECKING:
    from cones import Concept, Subject
    from cones.models import Pipeline

SUBJECTS = {"striped_cat": "cat", "zigzag_jar": "jar", "dotted_cup": "cup"}
PLACES = ("in the snow", "in a desert", "on the grass", "on a road", "in a room", "at night")
Key = Annotated[str, Argument(help=f"Which of the photos that ship: {', '.join(SUBJECTS)}.")]


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
        prompt = f"{shown[0].prompt} on a beach"
        console.suggest(
            "cones", "generate", "-c", next(iter(found)), prompt, *loading.words, "-o", "out"
        )


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
