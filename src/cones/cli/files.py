"""Commands on concept files: ``show``, ``combine``, ``export``, ``push``, ``atlas``, ``ui``."""

import operator
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option, echo

import cones
from cones.cli import options
from cones.errors import ConesError

Target = Annotated[Path, Argument(help="Folder or file to write.", show_default=False)]
Kind = Annotated[
    Literal["diffusers", "single-file", "comfyui", "a1111"],
    Option(
        "--to", help="A model as a folder or as one file, or small files that are added to it."
    ),
]
Name = Annotated[str, Argument(help="OWNER/NAME on the hub.", show_default=False)]
File = Annotated[Path, Argument(help="Concept file.", show_default=False)]
Private = Annotated[bool, Option("--private", help="Only you can see a new repository.")]
Start = Annotated[list[Path] | None, Argument(help="Concept files.", show_default=False)]
Host = Annotated[str, Option(help="Address to listen on; other machines need the token shown.")]
Port = Annotated[int, Option(min=0, max=65535, help="Port; 0 takes any.")]


def show(*, concepts: options.Concepts, printing: options.Printing) -> None:
    """Print what concept files hold, with their certificates, and what two share.

    **Example:**  cones show cat.safetensors jar.safetensors
    """
    from cones.analysis.overlap import overlap

    pairs = list(zip(concepts.paths, concepts.load(), strict=True))
    lines, shared = [block(*pair) for pair in pairs], []
    for (one, a), (other, b) in combinations(pairs, 2):
        both = overlap(a.mask, b.mask)
        found = {"shared": both.shared, "by_chance": round(both.expected, 1)}
        shared.append({"files": [str(one), str(other)], **found})
        lines.append(f"{one} and {other}: {found}")
    described = [describe(*pair) for pair in pairs]
    printing.tell("\n".join(lines), {"concepts": described, "overlap": shared})


def block(path: Path, concept: "cones.Concept") -> str:
    """Describe a concept file for people."""
    return f"{path} ({path.stat().st_size / 1000:.0f} kB): {concept}"


def describe(path: Path, concept: "cones.Concept") -> dict[str, object]:
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


def combine(*, concepts: options.Concepts, output: options.File, saving: options.Saving) -> None:
    """Join concepts in one file: all their neurons, all their words.

    **Example:**  cones combine cat.safetensors jar.safetensors -o both.safetensors
    """
    saving.require(output)
    joined = reduce(operator.or_, concepts.load())
    joined.save(output)
    saving.tell(block(output, joined), describe(output, joined))


def export(
    *,
    concepts: options.Concepts,
    target: Target,
    to: Kind = "diffusers",
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Write the concepts for programs without cones: the neurons zero, the words in it or beside.

    **Example:**  cones export cat.safetensors cat-model/
    """
    saving.require(target)
    found = concepts.load()
    how = {"to": to, "overwrite": saving.overwrite}
    written = [str(path) for path in cones.export(loading.pipeline(), found, target, **how)]
    saving.tell(f"for {to}: {', '.join(written)}", {"to": to, "written": written})


def push(*, name: Name, file: File, private: Private = False, saving: options.Saving) -> None:
    """Put a concept on the Hugging Face Hub, with a card made from its certificate.

    Others use it as hub:OWNER/NAME wherever a concept file is asked for. Log in with 'hf auth
    login' first.

    **Example:**  cones push me/striped-cat cat.safetensors
    """
    concept = cones.load(file)
    how = {"private": private, "overwrite": saving.overwrite}
    source = cones.push(concept, name, **how)
    saving.tell(f"it is {source} now", {"concept": source})


def atlas(
    *,
    concepts: options.Concepts,
    output: options.File = Path("atlas.html"),
    saving: options.Saving,
) -> None:
    """Write one web page: certificates, layers, and what concepts share.

    The page needs no network.

    **Example:**  cones atlas cat.safetensors jar.safetensors -o atlas.html
    """
    from cones.atlas import page
    from cones.files import write_atomic

    saving.require(output)
    names = [path.name for path in concepts.files]
    write_atomic(output, page(concepts.load(), names).encode())
    saving.tell(f"open {output} in a browser", {"page": str(output)})


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
    found, names = options.Concepts(files or []).load(), [path.name for path in files or []]
    ready = "open {}   (Ctrl-C ends it)".format
    serve(loading.pipeline(), found, names, host=host, port=port, ready=lambda a: echo(ready(a)))
