"""The command ``library``: a folder of concept files, listed and searched."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

import cones
from cones.cli import console, options
from cones.errors import ConesError

if TYPE_CHECKING:
    from cones.library import Entry

MOST = 10  # near files that are shown, and all those that FILE was made of or that were made of it
Folder = Annotated[Path, Argument(help="Folder of concept files.", show_default=False)]
Near = Annotated[Literal["near"] | None, Argument(help="Only what is like FILE.")]
File = Annotated[Path | None, Argument(help="A concept file.", show_default=False)]
Noun = Annotated[str | None, Option(help="Only subjects with this noun.")]
Base = Annotated[str | None, Option(help="Only base models with this in their name.")]


def library(
    *,
    folder: Folder,
    near: Near = None,
    file: File = None,
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
