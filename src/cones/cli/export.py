"""``cones export``: a model with concepts in it, for programs that do not know concept files."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cones.cli import options, outputs

Target = Annotated[Path, Argument(help="Folder or file to write.", show_default=False)]
Kind = Annotated[str, Option("--to", help="Program it is for.")]


def export(
    *,
    files: options.Files,
    target: Target,
    to: Kind = "diffusers",
    rename: options.Rename = None,
    density: options.Density = None,
    loading: options.Loading,
    saving: outputs.Saving,
) -> None:
    """Write the model with the concept neurons set to zero and the new words added.

    **Example:**  cones export cat.safetensors cat-model/
    """
    import cones

    saving.require_free([target])
    outputs.require_folder(target.parent)
    concepts = options.load_concepts(files, rename, density)
    cones.export(loading.pipeline(concepts), concepts, target, to=to)
    saving.tell(f"{target}: for {to}", {"path": str(target), "to": to})
