"""What works with which model: families x set-ups x actions, each run on small random weights.

``python -m experiments checkpoints`` fills a record, cell by cell, and writes the page. A cell
says nothing if all went well, else the sentence of the refusal, or ``FAULT`` and the exception.
"""

import inspect
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import cpu_offload_with_hook
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image, ImageChops

from cones import Concept, ConesError, Subject, export, find, generate, load_pipeline
from cones.analysis.attention import attend
from cones.files import write_atomic
from cones.models import Pipeline, model_for
from cones.models.base import Progress
from cones.models.words import candidates, encoders, reads, vectors
from experiments.small import FAMILIES, save_single_file, small
from experiments.small_transformers import TRANSFORMERS
from experiments.tables import page

BUILT_IN = "built-in model"
PRECISIONS = ("float32", "bfloat16")
SETUPS = ("plain", "checkpointing", "model offload", "LoRA", "single file")
SINGLE_FILES = ("SD 1.x", "SD 2.x, v-prediction", "SDXL", "turbo")  # as they are found
KEYS = ("family", "setup", "precision")
ACTIONS = ("find", "generate", "combine", "export", "attention", "undo")
QUICK = {"steps": 2, "score_steps": 1, "batch": 2, "draws": 2, "flip": False}
QUICK |= {"prior_count": 2, "prior_steps": 1}
PROMPT, BOTH = "a V* cat", "a V* cat and a V2* cat"


def prepared(family: str, setup: str, precision: str, folder: Path) -> Pipeline:
    """Load a model as people hold it."""
    dtype, path = getattr(torch, precision), folder / "model.safetensors"
    if family == BUILT_IN:
        pipeline = load_pipeline(dtype=dtype, device="cpu")
    elif setup == "single file":
        save_single_file(FAMILIES[family](), path)
        pipeline = load_pipeline(path, dtype=dtype, device="cpu")
    else:
        pipeline = (FAMILIES | TRANSFORMERS)[family]().to(dtype)
    network = model_for(pipeline).module
    if setup == "checkpointing":
        network.enable_gradient_checkpointing()
    if setup == "model offload":
        hook, texts = None, [encoder for _, encoder in encoders(pipeline).values()]
        for part in (*texts, network, pipeline.vae):
            _, hook = cpu_offload_with_hook(part, "cpu", prev_module_hook=hook)
    if setup == "LoRA":
        names = ["to_q", "to_k", "to_v"]
        config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
        inject_adapter_in_model(config, network)
    return pipeline


def examined(pipeline: Pipeline, folder: Path) -> dict[str, str]:
    """Do everything with a model, and say of each action what went wrong."""
    _pixels(pipeline, [])  # transformers puts hooks of its own in place at the first call
    size, before = model_for(pipeline).size, _state(pipeline)
    pixels = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = dict.fromkeys(ACTIONS, "not reached")
    with _told(found, "find"):
        cat = find(pipeline, Subject(pixels, "cat"), **QUICK)
        dog = cat.using(cat.mask.random_like(torch.Generator())).renamed("V2*")
        shown = partial(_pixels, pipeline)
        actions = {
            "generate": lambda: _apart(shown([cat]), shown([])) > 0,
            "combine": lambda: _apart(shown([cat | dog], BOTH), shown([cat, dog], BOTH)) == 0,
            # Weights that are read from a file lie elsewhere in memory, which changes rounding.
            "export": lambda: _apart(_drawn_again(pipeline, cat, folder), shown([cat])) <= 1,
            "attention": lambda: attend(pipeline, [cat], PROMPT, ["cat"], num_inference_steps=1),
            "undo": lambda: _state(pipeline) == before,
        }
        for name, works in actions.items():
            with _told(found, name):
                if not works():
                    raise ValueError("the result is not what it should be")
    return found


@contextmanager
def _told(found: dict[str, str], name: str) -> Iterator[None]:
    """Note how the block ends: nothing to say, a refusal, or a fault."""
    found[name] = ""
    try:
        yield
    except ConesError as error:
        found[name] = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a user would see
        found[name] = f"FAULT {type(error).__name__}: {str(error)[:200]}"


def _pixels(pipeline: Pipeline, concepts: list[Concept], prompt: str = PROMPT) -> Image.Image:
    return generate(pipeline, concepts, prompt, num_inference_steps=2, seeds=[0])[0]


def _apart(one: Image.Image, other: Image.Image) -> int:
    """Give the largest difference of two pictures, of 255."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def _drawn_again(pipeline: Pipeline, cat: Concept, folder: Path) -> Image.Image:
    """Export, read the model back by plain diffusers, and draw with it.

    T5 and Gemma are told the rare word that stands for V*.
    """
    if hasattr(pipeline, "unet"):
        export(pipeline, cat, folder / "difference.safetensors", to="comfyui")
    (path,) = export(pipeline, cat, folder / "exported")
    again = diffusers.DiffusionPipeline.from_pretrained(path)
    again.to(model_for(pipeline).module.dtype)  # when it is loading, T5 keeps parts in float32
    if "default_sample_size" in vars(pipeline):  # no file says it
        again.default_sample_size = pipeline.default_sample_size
    said, rows = "V*", cat.words[0].embeddings
    if any(reads(encoder) for _, encoder in encoders(pipeline).values()):
        starts = {word: vectors(pipeline, word) for word in candidates(pipeline)}
        (said,) = [w for w, own in starts.items() if all(own[n].equal(rows[n]) for n in rows)]
    return _pixels(again, [], PROMPT.replace("V*", said))


def _state(pipeline: Pipeline) -> list[object]:
    """Give all that must be as before: vocabularies, weights, hooks."""
    pairs = encoders(pipeline).values()
    found: list[object] = [tokenizer.get_vocab() for tokenizer, _ in pairs]
    found += [repr(tokenizer.backend_tokenizer.normalizer) for tokenizer, _ in pairs]
    for part in (model_for(pipeline).module, pipeline.vae, *(encoder for _, encoder in pairs)):
        for name, weight in part.state_dict().items():
            raw = weight.detach().contiguous().view(-1).view(torch.uint8)
            found.append((name, zlib.crc32(raw.numpy().tobytes())))
        found += [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in part.modules()]
    return found


def _empty(kind: str) -> Pipeline:
    """Build a pipeline of which no part is there: its kind alone is refused."""
    names = inspect.signature(make := getattr(diffusers, kind)).parameters
    return make(**dict.fromkeys(names))


_UNCLIP = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}
REFUSED: dict[str, Callable[[], Pipeline]] = {
    "inpainting U-Net": partial(small, "StableDiffusionInpaintPipeline", in_channels=9),
    "unCLIP": partial(small, **_UNCLIP),
    "AnimateDiff": partial(_empty, "AnimateDiffPipeline"),
    "Flux for inpainting": partial(_empty, "FluxFillPipeline"),
    "Sana of few steps": partial(_empty, "SanaSprintPipeline"),
    "Kandinsky 3": partial(_empty, "Kandinsky3Pipeline"),
    "DeepFloyd IF": partial(_empty, "IFPipeline"),
}


def cases() -> list[tuple[str, ...]]:
    """List what is to be examined."""
    every = product((*FAMILIES, *TRANSFORMERS, BUILT_IN), SETUPS, PRECISIONS)
    return [case for case in every if case[1] != "single file" or case[0] in SINGLE_FILES]


def results(work: Path, progress: Progress) -> dict[str, Any]:
    """Examine what has no record beside ``work`` yet."""
    record, every = work.with_suffix(".json"), cases()
    cells = json.loads(record.read_text("utf-8")) if record.exists() else []
    known = [tuple(cell[key] for key in KEYS) for cell in cells]
    for case in every:
        if case not in known:
            with tempfile.TemporaryDirectory() as name:
                found = examined(prepared(*case, Path(name)), Path(name))
            cells.append(dict(zip(KEYS, case, strict=True)) | found)
            write_atomic(record, json.dumps(cells, indent=1).encode())
            progress("checkpoints", len(cells), len(every), ", ".join(case))
    refused: dict[str, str] = {}
    for name, make in REFUSED.items():
        with _told(refused, name):
            find(make(), Subject(torch.zeros(4, 3, 64, 64), "cat"))
    return {"cells": cells, "refused": refused}


def write_page(docs: Path) -> Path:
    """Write the page on checkpoints from the results there are; give its path."""
    found: dict[str, Any] = {"setups": SETUPS, "actions": ACTIONS}
    for name in ("checkpoints", "memory"):
        path = docs / "results" / f"{name}.json"
        found[name] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    write_atomic(docs / "checkpoints.md", page("checkpoints.md", results=found).encode())
    return docs / "checkpoints.md"
