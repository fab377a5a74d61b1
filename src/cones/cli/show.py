"""``cones show``: what concept files hold, and what they share."""

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from cones.cli import options, outputs

if TYPE_CHECKING:
    from cones import Concept

Picture = Annotated[
    Path | None, Option(help="Also draw the density of every layer of the first file (PNG).")
]


def show(
    *,
    files: options.Files,
    density: options.Density = None,
    picture: Picture = None,
    saving: outputs.Saving,
) -> None:
    """Print what concept files hold, with their certificates, and what two share.

    **Example:**  cones show cat.safetensors jar.safetensors
    """
    from cones.analysis.overlap import overlap
    from cones.analysis.plots import densities

    if picture is not None:
        saving.require_file(picture)
    concepts = options.load_concepts(files, density=density)
    blocks = [block(path, concept) for path, concept in zip(files, concepts, strict=True)]
    described = [describe(path, concept) for path, concept in zip(files, concepts, strict=True)]
    shared = []
    for i, j in combinations(range(len(files)), 2):
        found = overlap(concepts[i], concepts[j])
        shared.append({"files": [i, j], "shared": found.shared, "by_chance": found.expected})
        blocks.append(
            f"{files[i]} and {files[j]} share {found.shared:,} neurons; "
            f"{found.expected:,.1f} by chance"
        )
    if picture is not None:
        densities(concepts[0].mask, picture, title=concepts[0].prompt)
    saving.tell("\n".join(blocks), {"concepts": described, "overlap": shared})


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
