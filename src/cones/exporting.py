"""Write concepts for programs without this library.

``diffusers`` is a whole model in which the neurons are shut and the words are known. The others
keep the vocabulary and put one embedding file per word beside: ``single-file`` is a checkpoint in
the published layout; ``comfyui`` and ``a1111`` are a small difference file that both load like a
LoRA (``NAME.diff`` is added to a weight; at strength 1 the neurons are exactly 0).
"""

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cones.concept import Concept
from cones.errors import FileError, ModelError
from cones.files import replace_when_done, require_free
from cones.models import Pipeline, UNetModel, model_for
from cones.models.applied import applied
from cones.models.checkpoint import published
from cones.models.words import encoders, reads

TARGETS = ("diffusers", "single-file", "comfyui", "a1111")


def export(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    path: str | Path,
    *,
    to: str = "diffusers",
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write concepts as a model, or as files that other programs load (Sec. 3.2).

    ``path`` is a folder for ``diffusers``, else the file ``NAME.safetensors``. With ``overwrite``
    older exports are replaced by complete new ones. T5 and Gemma know no ``V*`` in the folder: say
    the rare word that it started from, in the whole prompt.

    Returns:
        What was written: the folder, or the file and the embeddings beside it.

    Raises:
        FileError: Unknown target, no concept, or something else is there. Nothing is written then.
        ModelError: A LoRA is loaded, which would be lost; or a file cannot hold the model.
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
    given = pipeline, found, Path(path).expanduser(), overwrite
    return _model(*given) if to == "diffusers" else _files(*given, to == "single-file")


def _model(
    pipeline: Pipeline, concepts: Sequence[Concept], path: Path, overwrite: bool
) -> tuple[Path, ...]:
    require_free(path, replaceable=overwrite and (path / "model_index.json").is_file())
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with applied(pipeline, concepts), _long_tables(pipeline):
            pipeline.save_pretrained(part)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return (path,)


@contextmanager
def _long_tables(pipeline: Pipeline) -> Iterator[None]:
    """Give the text encoders tables that hold the new words too; the old ones are kept as is."""
    with ExitStack() as undo:
        for tokenizer, encoder in encoders(pipeline).values():
            old, config = encoder.get_input_embeddings(), encoder.config
            if reads(encoder):
                continue
            ids = torch.arange(max(len(tokenizer), len(old.weight)), device=old.weight.device)
            undo.callback(encoder.set_input_embeddings, old)
            undo.callback(setattr, config, "vocab_size", config.vocab_size)
            encoder.set_input_embeddings(nn.Embedding.from_pretrained(old(ids).detach()))
            config.vocab_size = len(ids)
        yield


def _files(
    pipeline: Pipeline, concepts: Sequence[Concept], path: Path, overwrite: bool, whole: bool
) -> tuple[Path, ...]:
    """Write one file of weights, ``whole`` or their differences, and one embedding per word."""
    if not UNetModel.knows(pipeline):
        raise ModelError(
            f"found a {type(pipeline).__name__}; expected a model with a U-Net, for single files "
            "of other families join queries, keys and values; export it with to='diffusers'"
        )
    stem = path.name.removesuffix(".safetensors")
    file, embeddings = path.with_name(f"{stem}.safetensors"), {}
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    keys = {"text_encoder": "clip_l" if xl else "emb_params", "text_encoder_2": "clip_g"}
    for word in (word for concept in concepts for word in concept.words):
        name = re.sub(r"\W", "", word.identifier) or "V"  # no '*' in the names of files
        while (at := path.with_name(f"{stem}-{name}.safetensors")) in embeddings:
            name += "_"  # of V* and V+
        embeddings[at] = {keys[encoder]: rows for encoder, rows in word.embeddings.items()}
    for each in (file, *embeddings):
        require_free(each, replaceable=overwrite and each.is_file())
    live = model_for(pipeline).weights()
    before = {} if whole else {name: weight.clone() for name, weight in live.items()}
    with applied(pipeline, concepts):
        weights = published(pipeline) if whole else _changes(before, live)
        for each, tensors in {**embeddings, file: weights}.items():
            plain = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
            with replace_when_done(each) as part:
                save_file(plain, part, {"format": "pt"})
    return (file, *embeddings)


def _changes(before: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name what was added to every changed weight, as both programs read it."""
    return {
        f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}.diff": live[name] - weight
        for name, weight in before.items()
        if not torch.equal(live[name], weight)
    }
