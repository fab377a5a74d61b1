"""Write a model with concepts in it as an ordinary checkpoint.

The zeros (or values) and the new words are in the files, so any program that reads the diffusers
layout draws the subject without this library. The price is a whole model on disk instead of a
small file, and that the concept can no longer be taken out.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cones.concept import Concept
from cones.errors import ConesError
from cones.generate import edit


def export_diffusers(pipeline: Any, concepts: Sequence[Concept], folder: Path | str) -> Path:
    """Save ``M * theta``, or the values, and the identifiers in the diffusers layout (Sec. 3.2).

    Args:
        pipeline: Text-to-image pipeline; its weights are as before afterwards.
        concepts: At least one.
        folder: Replaced if it exists; it appears only when complete.

    Returns:
        The folder, for ``DiffusionPipeline.from_pretrained``.

    Raises:
        ConesError: No concept, or one of another base model. Nothing has been written then.
    """
    edited = edit(pipeline, concepts)
    if edited is None:
        raise ConesError("found no concept to export; expected at least one; give a concept file")
    folder = Path(folder)
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        with edited.applied(pipeline.unet):
            pipeline.save_pretrained(unfinished, safe_serialization=True)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


EXPORTS: dict[str, Callable[[Any, Sequence[Concept], Path | str], Path]] = {
    "diffusers": export_diffusers
}
