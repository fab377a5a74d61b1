"""``cones demo``: the whole job on the built-in model."""

import shutil
from pathlib import Path
from typing import Annotated

from typer import Argument

from cones.cli import console, options, outputs
from cones.cli.find import Searching

Key = Annotated[str, Argument(help="Which of the subjects that ship with the package.")]


def demo(
    *,
    subject: Key = "tuxedo_cat",
    output: options.Folder = Path("cones-demo"),
    searching: Searching,
    loading: options.Loading,
    saving: outputs.Saving,
) -> None:
    """Show the whole job: find two subjects from photos, and draw them in new places.

    Writes two concept files and sheet.png: photos, the untouched model, a random mask, the
    concept, and both subjects together.

    **Example:**  cones demo striped_jar
    """
    from cones import demo as work

    settings = searching.settings()
    saving.require_file(output / work.SHEET)
    pipeline = loading.pipeline()
    shown = work.subjects(pipeline, subject)
    with console.resumable(f"what was found is in {output}"), console.progress() as progress:
        found = work.demo(pipeline, shown, output, settings=settings, progress=progress)
    for path in found:
        shutil.rmtree(f"{path}.part", ignore_errors=True)
    files = [str(path) for path in found]
    saving.tell(
        f"look at {output / work.SHEET}", {"sheet": str(output / work.SHEET), "concepts": files}
    )
    prompt = f"{shown[0].prompt} on a beach"
    if not saving.as_json:
        console.suggest("cones", "generate", "-c", files[0], prompt, *loading.words, "-o", "out")
