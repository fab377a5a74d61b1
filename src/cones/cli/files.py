"""Commands on concept files: all but those that search or draw."""

import operator
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option, echo

import cones
from cones.cli import console, options
from cones.errors import ConesError

if TYPE_CHECKING:
    from cones.library import Entry

Target = Annotated[Path, Argument(help="Folder or file to write.", show_default=False)]
Kind = Annotated[
    Literal["diffusers", "single-file", "comfyui", "a1111"],
    Option("--to", help="A model as a folder or one file, or small files added to it."),
]
Name = Annotated[str, Argument(help="OWNER/NAME on the hub.", show_default=False)]
File = Annotated[Path, Argument(help="Concept file.", show_default=False)]
Private = Annotated[bool, Option("--private", help="Only you can see a new repository.")]
Start = Annotated[list[Path] | None, Argument(help="Concept files.", show_default=False)]
Host = Annotated[str, Option(help="Address to listen on; other machines need the token shown.")]
Port = Annotated[int, Option(min=0, max=65535, help="Port; 0 takes any.")]
MOST = 10  # near files that are shown, and all those that FILE was made of or that were made of it
Folder = Annotated[Path, Argument(help="Folder of concept files.", show_default=False)]
Near = Annotated[Literal["near"] | None, Argument(help="Only what is like FILE.")]
Like = Annotated[Path | None, Argument(help="A concept file.", show_default=False)]
Noun = Annotated[str | None, Option(help="Only subjects with this noun.")]
Base = Annotated[str | None, Option(help="Only base models with this in their name.")]


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


def library(
    *,
    folder: Folder,
    near: Near = None,
    file: Like = None,
    noun: Noun = None,
    base: Base = None,
    printing: options.Printing,
) -> None:
    """List a folder of thousands of concept files, or those that are most like one.

    An index in the folder keeps what files say; only new and changed ones are read.

    **Example:**  cones library concepts --noun cat
    """
    if near and file is None:
        raise ConesError("found 'near' without a file; expected 'near FILE'; add a concept file")
    with console.progress("what was read is in the index") as progress:
        found = cones.Library(folder, progress=progress)
    every = noun is None is base
    rows = [(e, "") for e in (found.entries if every else found.find(noun=noun, base=base))]
    if file:
        concept, kept = cones.load(file), {entry.path for entry, _ in rows}
        sources, products = ({entry.path for entry in each} for each in found.family(concept))
        rows = []
        for entry, like in found.near(concept, count=len(found.entries)):
            kin = {entry.path in sources: ", a part of it", entry.path in products: ", made of it"}
            if entry.path in kept and (len(rows) < MOST or True in kin):
                rows.append((entry, f", {like:.1%} alike{kin.get(True, '')}"))
    described = [{**vars(e), "path": str(e.path), "note": note[2:]} for e, note in rows]
    printing.tell("\n".join(_line(*row) for row in rows) or "no such files", described)


def _line(entry: "Entry", note: str) -> str:
    """Describe a file in one line; its name may hold anything."""
    words = " and ".join(" ".join(word) for word in entry.words)
    verdict = str(entry.certificate.get("verdict", "no certificate"))[:20]
    said = f"{words}, {entry.density:.2%}, {verdict}, {entry.base}{note}"
    line = f"{entry.path.name}: {f'error: {entry.error}' if entry.error else said}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)
