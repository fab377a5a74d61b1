"""``cones show``, ``cones combine`` and ``cones export``: look at concept files and turn them."""

from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import options, pictures, places, screen, search
from cones.errors import ConesError

Files = Annotated[list[Path], typer.Argument(help="Concept files.")]
Picture = Annotated[
    Path | None, typer.Option(help="PNG to write: density of every layer (extra 'plot').")
]
How = Annotated[
    str, typer.Option(help="union, intersection, difference or common (see --at-least).")
]
Shared = Annotated[
    int | None,
    typer.Option(help="With common: held by so many of the files; left out: by most."),
]
Kind = Annotated[str, typer.Option("--to", help="Kind of checkpoint: diffusers.")]
Target = Annotated[Path, typer.Argument(help="Folder of the checkpoint.")]


@screen.guarded
def show(
    files: Files,
    density: options.Density = None,
    picture: Picture = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Say what concept files hold: words, densities, layers, certificate, and what two share.

    **Example:**  cones show cat.safetensors --picture cat-layers.png
    """
    from cones.plot import density_picture

    if picture is not None:
        places.require_file(picture, overwrite=overwrite)
    concepts = pictures.load_concepts(files, density)
    described = [_summary(p, concept) for p, concept in zip(files, concepts, strict=True)]
    shared = _shared(concepts)
    if picture is not None:
        density_picture(concepts[0].mask, picture, title=described[0]["words"][0])
    if as_json:
        screen.emit({"concepts": described, "overlap": shared})
        return
    for summary in described:
        _tell(summary)
    for row in shared:
        a, b = row["files"]
        screen.tell(
            f"file {a} and file {b} share {row['shared']:,} neurons; "
            f"{row['expected']:,.1f} by chance"
        )
    if picture is not None:
        screen.tell(f"look at {picture}")


def _summary(path: Path, concept: Any) -> dict[str, Any]:
    from cones.stats import by_kind, density_per_site

    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "words": [f"{member.identifier} {member.noun}" for member in concept.members],
        "base": concept.base.model,
        "neurons": len(concept.mask),
        "searched": concept.mask.total,
        "density": concept.mask.density,
        "precision": "shut" if concept.values is None else concept.values.precision,
        "levels": list(concept.densities),
        "mask": concept.mask.digest,
        "kinds": by_kind(concept.mask),
        "sites": density_per_site(concept.mask),
        "settings": dict(concept.settings),
        "certificate": dict(concept.certificate),
    }


def _shared(concepts: list[Any]) -> list[dict[str, Any]]:
    from cones.stats import overlap

    pairs = [(i, j) for j in range(len(concepts)) for i in range(j)]
    return [
        {"files": [i + 1, j + 1], **overlap(concepts[i].mask, concepts[j].mask)}
        for i, j in pairs
        if concepts[i].mask.shapes == concepts[j].mask.shapes
    ]


def _tell(summary: dict[str, Any]) -> None:
    from rich.table import Table

    words = ", ".join(summary["words"])
    screen.tell(f"{summary['file']}: {words}, found on {summary['base']}")
    screen.tell(
        f"  {summary['neurons']:,} of {summary['searched']:,} K/V weights "
        f"({summary['density']:.3%}), {summary['bytes'] / 1000:.1f} kB"
    )
    levels = "  ".join(f"{density:.3%}" for density in summary["levels"])
    screen.tell(f"  levels: {levels}")
    if summary["precision"] != "shut":
        screen.tell(f"  {summary['precision']} values instead of zeros")
    for line in search.certificate_lines(summary["certificate"]):
        screen.tell(line)
    search.warn_raised(summary["certificate"])
    table = Table("attention", "role", "neurons", "density")
    for row in summary["kinds"]:
        cells = (row["attention"], row["role"], f"{row['neurons']:,}", f"{row['density']:.3%}")
        table.add_row(*cells)
    screen.output.print(table)


@screen.guarded
def combine(
    files: Files,
    output: options.File,
    how: How = "union",
    at_least: Shared = None,
    density: options.Density = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Join concepts in one file, or keep what they share, or what only the first has.

    What most concepts of a noun hold (common) can be taken out of one of them (difference).

    **Example:**  cones combine cat.safetensors pot.safetensors -o both.safetensors
    """
    from cones.concept import combine as combined
    from cones.concept_file import save
    from cones.general import common

    if at_least is not None and how != "common":
        raise ConesError(f"found --at-least with --how {how}; expected common; leave one out")
    places.require_file(output, overwrite=overwrite)
    concepts = pictures.load_concepts(files, density)
    if len(concepts) < 2:
        raise ConesError("found one concept file; expected two or more; name another")
    if how == "common":
        result = common(concepts, at_least)
    else:
        result = reduce(lambda first, other: combined(first, other, how), concepts)
    size = save(result, output)
    if as_json:
        screen.emit(_summary(output, result))
        return
    screen.tell(f"{output}: {len(result.mask):,} concept neurons, {size / 1000:.1f} kB")


@screen.guarded
def export(
    files: Files,
    folder: Target,
    kind: Kind = "diffusers",
    model: options.Model = None,
    density: options.Density = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write the model with the zeros and the new words in it as an ordinary checkpoint.

    Any program that reads the diffusers layout can draw the subject then.

    **Example:**  cones export cat.safetensors --to diffusers cat-model/
    """
    from cones.export import EXPORTS

    if kind not in EXPORTS:
        raise ConesError(f"found --to {kind!r}; expected one of {sorted(EXPORTS)}; choose one")
    places.require_free([folder], overwrite=overwrite)
    places.require_folder(folder.parent)
    concepts = pictures.load_concepts(files, density)
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    written = EXPORTS[kind](pipeline, concepts, folder)
    if as_json:
        screen.emit({"folder": str(written), "kind": kind})
        return
    screen.tell(f"{written}: load it with DiffusionPipeline.from_pretrained({str(written)!r})")
