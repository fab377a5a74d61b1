"""Load a pipeline: a folder, a single file, a hub name, or the model that ships with the library.

Weights come from safetensors only. Local copies come first; the hub is asked once. The safety
checker is left out because it would blacken prior pictures and measurements; put one back before
you show pictures to others.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from cones.errors import ModelError
from cones.models import builtin
from cones.models.protocol import Pipeline
from cones.models.sampling import is_distilled
from cones.models.words import encoders

PATIENCE = 5.0  # seconds that the hub has to answer
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_VARIANT = re.compile(r"\.(\w+)(-\d+-of-\d+)?\.safetensors$")
_NO_CHECKER = {"safety_checker": None, "requires_safety_checker": False}


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
        model: Folder in diffusers layout, ``.safetensors`` checkpoint (its configuration lies in
            a folder of the same name, or on the hub), or hub name. None is the built-in model.
        dtype: Precision of all its networks, by default bfloat16 on CUDA, else float32.
        device: Where to put it, by default an accelerator if there is one.
        variant: Such as ``fp16``; found by itself where a model has no other files.
        offload: Keep networks on the CPU while they do not run (``model``, ``sequential``).
        revision: Branch, tag or commit on the hub.
        resolution: Side of pictures and photos in pixels, by default the model's own.

    Raises:
        ModelError: There is no such model, or it cannot be read.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    home = torch.device(device or found or "cpu")
    dtype = dtype or ("bfloat16" if home.type == "cuda" else "float32")
    pipeline = _read(model, str(dtype).removeprefix("torch."), variant, revision)
    encoders(pipeline)  # refuses a tokenizer without vocabulary
    _settle(pipeline, resolution)
    if offload in ("model", "sequential"):
        getattr(pipeline, f"enable_{offload}_cpu_offload")(device=home)
        return pipeline
    return pipeline.to(home)


def _read(
    model: str | Path | None, dtype: str, variant: str | None, revision: str | None
) -> Pipeline:
    if dtype not in DTYPES:
        raise ModelError(f"found dtype {dtype}; expected one of {', '.join(DTYPES)}; choose one")
    path, precision = Path(model or builtin.folder()).expanduser(), DTYPES[dtype]
    with _reading(str(model or path)):
        if path.is_file():
            return _single_file(path, precision)
        if path.is_dir():
            return _folder(path, precision, variant)
        return _hub(str(model), precision, variant, revision)


@contextmanager
def _reading(model: str) -> Iterator[None]:
    """Say in one sentence why a model cannot be read."""
    try:
        yield
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"found no readable model {model!r} ({line}); expected a diffusers folder or a Stable "
            "Diffusion checkpoint in safetensors; fetch it again"
        ) from error


def _folder(folder: Path, dtype: torch.dtype, variant: str | None) -> Pipeline:
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"found no model_index.json in {str(folder)!r}; expected a folder in diffusers "
            "layout; give the .safetensors file itself for a single checkpoint"
        )
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    variant = _variant(str(folder), files, variant)
    settings = ("tokenizer_config.json", "special_tokens_map.json")
    if not any(n.startswith("tokenizer/") and not n.endswith(settings) for n in files):
        raise ModelError(
            f"found no tokenizer in {str(folder)!r}; expected its files (tokenizer.json) in the "
            "folder 'tokenizer'; copy them there from the model that this one was made from"
        )
    index = DiffusionPipeline.load_config(folder)
    options = {name: value for name, value in _NO_CHECKER.items() if name in index}
    return DiffusionPipeline.from_pretrained(
        folder, dtype=dtype, variant=variant, use_safetensors=True, **options
    )


def _hub(name: str, dtype: torch.dtype, variant: str | None, revision: str | None) -> Pipeline:
    """Read the local copy of a model of the hub, or ask the hub once."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ModelError(
            f"found no folder or file {name!r}; expected one, or a hub name such as "
            "'stable-diffusion-v1-5/stable-diffusion-v1-5' (owner/name); correct it"
        )
    problem = None
    try:
        cached = snapshot_download(name, revision=revision, local_files_only=True)
        return _folder(Path(cached), dtype, variant)
    except LocalEntryNotFoundError:
        pass
    except ModelError as error:  # only a part of it may have been fetched
        problem = error
    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=PATIENCE).siblings or []
    except Exception as error:  # noqa: BLE001 - each transport has errors of its own
        answer = "does not know it" if isinstance(error, HfHubHTTPError) else "does not answer"
        raise problem or ModelError(
            f"found no copy of {name!r} here, and the hub {answer} ({type(error).__name__}); "
            "expected one of the two; correct the name, connect, or run 'hf auth login'"
        ) from error
    variant = _variant(name, {file.rfilename for file in siblings}, variant)
    folder = DiffusionPipeline.download(
        name, revision=revision, variant=variant, use_safetensors=True, safety_checker=None
    )
    return _folder(Path(folder), dtype, variant)


def _single_file(path: Path, dtype: torch.dtype) -> Pipeline:
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise ModelError(
            f"found no U-Net in {str(path)!r}; expected a checkpoint of Stable Diffusion 1.x, 2.x "
            "or XL; load a LoRA with pipeline.load_lora_weights(), a concept with cones.load()"
        )
    xl = any(key.startswith("conditioner.") for key in keys)
    beside = path.with_suffix("")
    options = {"config": str(beside)} if (beside / "model_index.json").is_file() else {}
    options |= {} if xl else {"safety_checker": None}
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    pipeline = kind.from_single_file(str(path), dtype=dtype, **options)
    pipeline.register_to_config(_name_or_path=str(path.resolve()))
    return pipeline


def _variant(model: str, files: set[str], wanted: str | None) -> str | None:
    """Choose which of a model's weight files to read; None means the plain ones."""
    weights = [name for name in files if re.match(r"(unet|transformer)/", name)]
    safe = [name for name in weights if name.endswith(".safetensors")]
    found = {match[1] if (match := _VARIANT.search(name)) else None for name in safe}
    if wanted in found:
        return wanted
    if wanted is None and found:
        return "fp16" if "fp16" in found else min(map(str, found))
    if found:
        there = ", ".join(sorted(str(each or "plain") for each in found))
        raise ModelError(
            f"found variants {there} in {model!r}; expected {wanted!r}; choose one that is there"
        )
    raise ModelError(
        f"found no safetensors for the U-Net in {model!r}"
        f"{', only .bin files' if any(name.endswith('.bin') for name in weights) else ''}; "
        "expected safetensors, which cannot run code; load it with diffusers and "
        "use_safetensors=False, then save_pretrained() it"
    )


def _settle(pipeline: Pipeline, resolution: int | None) -> None:
    """Set the sampler, unless the model needs its own, and the size of pictures."""
    config = pipeline.scheduler.config
    own = is_distilled(pipeline) or config.get("rescale_betas_zero_snr")
    if "beta_schedule" in config and not own:  # flow-matching samplers stay as they are
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)
    if resolution is None:
        return
    unet, factor = pipeline.unet, pipeline.vae_scale_factor
    step = factor * 2 ** (len(unet.config.block_out_channels) - 1)
    if resolution < step or resolution % step:
        raise ModelError(
            f"found resolution {resolution}; expected a multiple of {step} pixels; choose one"
        )
    unet.register_to_config(sample_size=resolution // factor)
