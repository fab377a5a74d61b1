"""Write concepts for programs without this library.

``diffusers`` is a whole model in which the neurons are shut and the words are known. ``comfyui``
and ``a1111`` are small: a difference file that both load like a LoRA (``NAME.diff`` is added to a
weight; at strength 1 the neurons are exactly 0), and one embedding file per word beside it, so the
vocabulary stays as it is. No single-file checkpoint is written; both can merge one from these.
"""

import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from cones.concept import Concept
from cones.errors import FileError, ModelError
from cones.files import write_atomic
from cones.models import Pipeline, model_for
from cones.models.applied import applied, rows_of
from cones.models.words import spoken

TARGETS = ("diffusers", "comfyui", "a1111")


def export(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    path: str | Path,
    *,
    to: str = "diffusers",
) -> tuple[Path, ...]:
    """Write concepts as a model, or as files that other programs load (Sec. 3.2).

    ``path`` is a folder for ``diffusers``, and the difference file ``NAME.safetensors`` for
    ``comfyui`` and ``a1111``. What is there is replaced once the new files are complete.

    Returns:
        What was written: the folder, or the difference file and the embeddings beside it.

    Raises:
        FileError: Unknown target, no concept, or a folder that is no model.
        ModelError: A LoRA is loaded, which would be lost.
    """
    found = [concepts] if isinstance(concepts, Concept) else list(concepts)
    if to not in TARGETS or not found:
        raise FileError(
            f"found target {to!r} for {len(found)} concepts; expected one of "
            f"{', '.join(TARGETS)} and at least one concept; change them"
        )
    if any(hasattr(part, "base_layer") for part in model_for(pipeline).module.modules()):
        raise ModelError(
            "found a LoRA in the pipeline; expected plain weights, for it would be lost in the "
            "file; call pipeline.unload_lora_weights(), after pipeline.fuse_lora() to keep it"
        )
    path = Path(path).expanduser()
    return _model(pipeline, found, path) if to == "diffusers" else _files(pipeline, found, path)


def _model(pipeline: Pipeline, concepts: Sequence[Concept], path: Path) -> tuple[Path, ...]:
    if path.exists() and not (path / "model_index.json").is_file():
        raise FileError(
            f"found {str(path)!r}, which is no diffusers model; expected a new folder or an older "
            "export to replace; choose another name"
        )
    part, old = (path.with_name(f".{path.name}.{secrets.token_hex(4)}") for _ in range(2))
    rows = rows_of(pipeline, concepts)
    try:
        with spoken(pipeline, rows, written=True), applied(pipeline, concepts):
            pipeline.save_pretrained(part)
        if path.exists():
            path.rename(old)
        part.rename(path)
    finally:
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)
    return (path,)


def _files(pipeline: Pipeline, concepts: Sequence[Concept], path: Path) -> tuple[Path, ...]:
    live = model_for(pipeline).weights()
    before = {name: weight.clone() for name, weight in live.items()}
    with applied(pipeline, concepts):
        changes = {name: weight - before[name] for name, weight in live.items()}
    files = {
        path.with_suffix(".safetensors"): {
            f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}.diff": change
            for name, change in changes.items()
            if change.any()
        }
    }
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    keys = {"text_encoder": "clip_l" if xl else "emb_params", "text_encoder_2": "clip_g"}
    for word, rows in rows_of(pipeline, concepts).items():
        name = re.sub(r"\W", "", word) or "V"  # no '*' in the names of files
        files[path.with_name(f"{path.stem}-{name}.safetensors")] = {
            keys[encoder]: each for encoder, each in rows.items()
        }
    for file, tensors in files.items():
        plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        write_atomic(file, save(plain, {"format": "pt"}))
    return tuple(files)
