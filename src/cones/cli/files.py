"""Commands on concept files: ``show``, ``combine``, ``export``, ``atlas`` and ``ui``."""

import operator
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option, echo

from cones.cli import options
from cones.errors import ConesError

if TYPE_CHECKING:
    from cones import Concept

OPERATORS = {"union": operator.or_, "intersection": operator.and_, "difference": operator.sub}
Picture = Annotated[Path | None, Option(help="PNG to draw: density of the first file's layers.")]
How = Annotated[
    Literal["union", "intersection", "difference"],
    Option(help="Keep what any file has, what all have, or what only the first has."),
]
Target = Annotated[Path, Argument(help="Folder or file to write.", show_default=False)]
Kind = Annotated[str, Option("--to", help="diffusers, comfyui or a1111.")]
Start = Annotated[list[Path] | None, Argument(help="Concept files.", show_default=False)]
Host = Annotated[str, Option(help="Address to listen on; other machines need the token shown.")]
Port = Annotated[int, Option(min=0, max=65535, help="Port; 0 takes any.")]


def show(
    *,
    files: options.Files,
    density: options.Density = None,
    picture: Picture = None,
    saving: options.Saving,
) -> None:
    """Print what concept files hold, with their certificates, and what two share.

    **Example:**  cones show cat.safetensors jar.safetensors
    """
    from cones.analysis.overlap import overlap
    from cones.analysis.plots import densities

    if picture is not None:
        saving.require_file(picture)
    concepts = options.load_concepts(files, density=density)
    pairs = list(zip(files, concepts, strict=True))
    lines, shared = [block(*pair) for pair in pairs], []
    for (one, a), (other, b) in combinations(pairs, 2):
        both = overlap(a, b)
        found = {"shared": both.shared, "by_chance": round(both.expected, 1)}
        shared.append({"files": [str(one), str(other)], **found})
        lines.append(f"{one} and {other}: {found}")
    if picture is not None:
        densities(concepts[0].mask, picture, title=concepts[0].prompt)
    described = [describe(*pair) for pair in pairs]
    saving.tell("\n".join(lines), {"concepts": described, "overlap": shared})


def block(path: Path, concept: "Concept") -> str:
    """Describe a concept file for people."""
    return f"{path} ({path.stat().st_size / 1000:.0f} kB): {concept}"


def describe(path: Path, concept: "Concept") -> dict[str, object]:
    """Describe a concept file for programs."""
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "words": [f"{word.identifier} {word.noun}" for word in concept.words],
        "model": concept.base.model,
        "neurons": len(concept.mask),
        "density": concept.density,
        "densities": concept.densities,
        "mask": concept.mask.digest,
        "settings": concept.settings,
        "certificate": concept.certificate,
    }


def combine(
    *,
    files: options.Files,
    output: options.File,
    how: How = "union",
    rename: options.Rename = None,
    density: options.Density = None,
    saving: options.Saving,
) -> None:
    """Join concepts in one file, or keep what they share, or what only the first has.

    **Example:**  cones combine cat.safetensors jar.safetensors -o both.safetensors
    """
    saving.require_file(output)
    if len(files) < 2:
        raise ConesError(f"found one file, {files[0]}; expected two or more; name another")
    joined = reduce(OPERATORS[how], options.load_concepts(files, rename, density))
    joined.save(output)
    saving.tell(block(output, joined), describe(output, joined))


def export(
    *,
    files: options.Files,
    target: Target,
    to: Kind = "diffusers",
    rename: options.Rename = None,
    density: options.Density = None,
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Write the model with the concept neurons set to zero and the new words added.

    **Example:**  cones export cat.safetensors cat-model/
    """
    import cones

    saving.require_free(target)
    options.require_folder(target.parent)
    concepts = options.load_concepts(files, rename, density)
    cones.export(loading.pipeline(concepts), concepts, target, to=to)
    saving.tell(f"{target}: for {to}", {"path": str(target), "to": to})


def atlas(
    *,
    files: options.Files,
    output: options.File = Path("atlas.html"),
    density: options.Density = None,
    saving: options.Saving,
) -> None:
    """Write one web page: certificates, layers and heads, and what concepts share.

    The page needs no network.

    **Example:**  cones atlas cat.safetensors jar.safetensors -o atlas.html
    """
    from cones.atlas import page
    from cones.files import write_atomic

    saving.require_file(output)
    concepts = options.load_concepts(files, density=density)
    write_atomic(output, page(concepts, [path.name for path in files]).encode())
    size = output.stat().st_size
    saving.tell(f"open {output} ({size / 1000:.0f} kB) in a browser", {"page": str(output)})


def ui(
    *, files: Start = None, loading: options.Loading, host: Host = "127.0.0.1", port: Port = 7860
) -> None:
    """Open a page: choose concepts and their strengths, draw beside the untouched model.

    Needs the extra 'ui'. Ctrl-C ends it.

    **Example:**  cones ui cat.safetensors jar.safetensors
    """
    try:
        from cones.ui import serve
    except ModuleNotFoundError as error:
        raise ConesError(
            f"found no {error.name}; expected it for the page; pip install 'cones[ui]'"
        ) from error
    concepts = options.load_concepts(files or [])
    serve(
        loading.pipeline(),
        concepts,
        [path.name for path in files or []],
        host=host,
        port=port,
        ready=lambda address: echo(f"open {address}   (Ctrl-C ends it)"),
    )
