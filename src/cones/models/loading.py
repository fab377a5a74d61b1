"""Load a pipeline: a folder, a single file, a hub name, or the model that ships with the library.

Weights come from safetensors only. Local copies come first; the hub is asked once. The safety
checker is left out because it would blacken prior pictures and measurements; put one back before
you show pictures to others.
"""

import re
from pathlib import Path
from typing import Literal

import torch
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

from cones.errors import ModelError
from cones.models import builtin
from cones.models.protocol import Pipeline
from cones.models.sampling import is_distilled
from cones.models.words import encoders

PATIENCE = 5.0  # seconds that the hub has to answer
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_VARIANT = re.compile(r"\.(\w+)(-\d+-of-\d+)?\.safetensors$")
_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError)


def load_pipeline(
    model: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    variant: str | None = None,
    offload: Literal["none", "model", "sequential"] | None = None,
    revision: str | None = None,
    resolution: int | None = None,
) -> Pipeline:
    """Load a text-to-image pipeline that samples with DPM-Solver++ (Appendix B).

    Models of few steps (turbo, LCM, Lightning) keep their own sampler.

    Args:
        model: Folder in diffusers layout, ``.safetensors`` checkpoint (with its configuration in
            a folder of the same name beside it, or from the hub), or hub name. None is the
            built-in model.
        dtype: Precision of all its networks, by default bfloat16 on CUDA, else float32.
        device: Where to put it, by default an accelerator if there is one.
        variant: Such as ``fp16``; found by itself where a model has no other files.
        offload: Keep networks on the CPU while they do not run (``model``, ``sequential``).
        revision: Branch, tag or commit on the hub.
        resolution: Side of pictures and photos in pixels, by default the model's own.

    Raises:
        ModelError: There is no such model, or it cannot be read.
    """
    if device is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        device = torch.device("cpu") if found is None else found
    device = torch.device(device)
    precision = _precision(dtype, device)
    path = Path(builtin.folder() if model is None else model).expanduser()
    if path.is_file():
        pipeline = _single_file(path, precision)
    elif path.is_dir():
        pipeline = _folder(path, precision, variant)
    else:
        pipeline = _hub(str(model), precision, variant, revision)
    encoders(pipeline)  # refuses a missing tokenizer
    _set_sampler(pipeline)
    if resolution is not None:
        _set_resolution(pipeline, resolution)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return pipeline


def _precision(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ModelError(
            f"found dtype {dtype!r}; expected one of {', '.join(DTYPES)}; choose one of these"
        )
    return DTYPES[dtype]


def _folder(folder: Path, dtype: torch.dtype, variant: str | None) -> Pipeline:
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"found no model_index.json in {str(folder)!r}; expected a folder in diffusers "
            "layout; give the .safetensors file itself for a single checkpoint"
        )
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    chosen = _variant(str(folder), files, variant)
    _require_tokenizer(str(folder), files)
    try:
        index = DiffusionPipeline.load_config(folder)
        unwanted = {"safety_checker": None, "requires_safety_checker": False}
        return DiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            variant=chosen,
            use_safetensors=True,
            **{name: value for name, value in unwanted.items() if name in index},
        )
    except _UNREADABLE as error:
        raise _unreadable(str(folder), error) from error


def _hub(name: str, dtype: torch.dtype, variant: str | None, revision: str | None) -> Pipeline:
    """Read the local copy of a model of the hub, or ask the hub once."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ModelError(
            f"found no folder or file {name!r}; expected one, or a hub name such as "
            "'stable-diffusion-v1-5/stable-diffusion-v1-5' (owner/name); correct it"
        )
    try:
        cached = snapshot_download(name, revision=revision, local_files_only=True)
        return _folder(Path(cached), dtype, variant)
    except (LocalEntryNotFoundError, ModelError) as error:
        incomplete = error
    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=PATIENCE).siblings or []
    except (RepositoryNotFoundError, HfHubHTTPError) as error:
        raise ModelError(
            f"found no model {name!r} on the hub, nor a copy of it here; expected a name as its "
            "page shows it; correct it, or run 'hf auth login' if it is private"
        ) from error
    except Exception as error:  # noqa: BLE001 - each transport has errors of its own
        if isinstance(incomplete, ModelError):
            raise incomplete from error
        raise ModelError(
            f"found no copy of {name!r} here, and the hub does not answer "
            f"({type(error).__name__}); expected one of the two; correct the name, or connect"
        ) from error
    chosen = _variant(name, {file.rfilename for file in siblings}, variant)
    try:
        folder = DiffusionPipeline.download(
            name, revision=revision, variant=chosen, use_safetensors=True, safety_checker=None
        )
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error
    return _folder(Path(folder), dtype, chosen)


def _single_file(path: Path, dtype: torch.dtype) -> Pipeline:
    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise _unreadable(str(path), error) from error
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise ModelError(
            f"found no U-Net in {str(path)!r}; expected a checkpoint of Stable Diffusion 1.x, 2.x "
            "or XL; load a LoRA with pipeline.load_lora_weights(), a concept with cones.load()"
        )
    beside = path.with_suffix("")
    options = {"config": str(beside)} if (beside / "model_index.json").is_file() else {}
    try:
        if any(key.startswith("conditioner.") for key in keys):
            found = StableDiffusionXLPipeline.from_single_file(str(path), dtype=dtype, **options)
        else:
            found = StableDiffusionPipeline.from_single_file(
                str(path), dtype=dtype, safety_checker=None, **options
            )
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from error
    found.register_to_config(_name_or_path=str(path.resolve()))
    return found


def _variant(model: str, files: set[str], wanted: str | None) -> str | None:
    """Choose which of a model's weight files to read; None means the plain ones."""
    weights = [name for name in files if re.match(r"(unet|transformer)/", name)]
    found = {m[1] for name in weights if (m := _VARIANT.search(name))}
    plain = any(n.endswith(".safetensors") and not _VARIANT.search(n) for n in weights)
    if wanted in found or (wanted is None and plain):
        return wanted
    if wanted is None and found:
        return "fp16" if "fp16" in found else min(found)
    has = [*(["plain"] if plain else []), *sorted(found)]
    if not has and any(name.endswith((".bin", ".ckpt")) for name in weights):
        raise ModelError(
            f"found only .bin files in {model!r}; expected safetensors, which cannot run code; "
            "load it with diffusers and use_safetensors=False, then save_pretrained() it"
        )
    raise ModelError(
        f"found weights {', '.join(has) or 'nowhere'} in {model!r}; expected variant "
        f"{wanted or 'plain'}; choose one that is there"
    )


def _require_tokenizer(model: str, files: set[str]) -> None:
    settings = ("tokenizer_config.json", "special_tokens_map.json")
    if not any(n.startswith("tokenizer/") and not n.endswith(settings) for n in files):
        raise ModelError(
            f"found no tokenizer in {model!r}; expected its files (tokenizer.json) in the folder "
            "'tokenizer'; copy them there from the model that this one was made from"
        )


def _set_sampler(pipeline: Pipeline) -> None:
    config = pipeline.scheduler.config
    kept = is_distilled(pipeline) or config.get("rescale_betas_zero_snr")
    if "beta_schedule" in config and not kept:  # flow-matching samplers stay as they are
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)


def _set_resolution(pipeline: Pipeline, resolution: int) -> None:
    unet, factor = pipeline.unet, pipeline.vae_scale_factor
    step = factor * 2 ** (len(unet.config.block_out_channels) - 1)
    if resolution < step or resolution % step:
        raise ModelError(
            f"found resolution {resolution}; expected a multiple of {step} pixels; choose one"
        )
    unet.register_to_config(sample_size=resolution // factor)


def _unreadable(model: str, error: BaseException) -> ModelError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return ModelError(
        f"found no readable model {model!r} ({line}); expected a diffusers folder or a Stable "
        "Diffusion checkpoint in safetensors; fetch it again"
    )
