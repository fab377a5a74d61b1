"""``cones refine``: several concept files in, one that serves all of them out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import options, pictures, places, screen, search
from cones.errors import ConesError

Files = Annotated[list[Path], typer.Argument(help="Concept files, one subject each.")]
Folders = Annotated[
    list[Path], typer.Option("--photos", help="Photos of each, in the order of the files.")
]


@screen.guarded
def refine(
    files: Files,
    photos: Folders,
    output: options.File,
    model: options.Model = None,
    density: options.Target = None,
    steps: options.Gradients = None,
    more: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Search once more within the joined neurons of several concepts, for all of them together.

    Joining files alone (**combine**) may leave neurons that help one subject and harm another.
    Left out, --density is the paper's for as many subjects, at most nine tenths of the union.

    **Example:**  cones refine cat.safetensors jar.safetensors --photos cat/ --photos jar/ -o both
    """
    from cones.together import find_together

    given = {"density": density, "steps": steps, "seed": seed}
    settings = search.settings_of(given, more or [])
    places.require_file(output, overwrite=overwrite)
    concepts = pictures.load_concepts(files, None)
    if len(photos) != len(concepts):
        raise ConesError(
            f"found {len(photos)} --photos for {len(concepts)} concept files; expected one "
            "folder per file, in the same order; name them all"
        )
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    subjects = [
        search.read_subject(pipeline, [folder], concept.noun, concept.identifier)
        for folder, concept in zip(photos, concepts, strict=True)
    ]
    found = search.kept(
        output, find_together, pipeline, subjects, parts=concepts, settings=settings
    )
    _report(found, output, as_json=as_json)


def _report(concept: Any, output: Path, *, as_json: bool) -> None:
    certificate = dict(concept.certificate)
    search.warn_raised(certificate)
    words = [f"{member.identifier} {member.noun}" for member in concept.members]
    if as_json:
        found = {"file": str(output), "words": words, "neurons": len(concept.mask)}
        screen.emit({**found, "density": concept.mask.density, "certificate": certificate})
        return
    screen.tell(
        f"{output}: {len(concept.mask):,} neurons for {', '.join(words)}, "
        f"{concept.mask.density:.2%} of the K/V weights"
    )
    for line in search.certificate_lines(certificate):
        screen.tell(line)
