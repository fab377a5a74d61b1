"""Load a pipeline: a folder, a single file, a hub name, or the model that ships with the library.

Weights come from safetensors only. Local copies come first; the hub is asked once. The safety
checker is left out because it would blacken prior pictures and measurements; put one back before
you show pictures to others.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
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
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open

from cones.errors import ModelError
from cones.models import UNetModel, builtin, model_for
from cones.models.base import Pipeline
from cones.models.beside import first_line, load_loras, readable, with_controlnet
from cones.models.sampling import is_distilled

PATIENCE = 5.0  # seconds that the hub has to answer
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_WEIGHTS = re.compile(r"(?:unet|transformer)/[^.]+(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")


def load_pipeline(
    model: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    variant: str | None = None,
    offload: Literal["model", "sequential"] | None = None,
    revision: str | None = None,
    resolution: int | None = None,
    controlnet: str | Path | None = None,
    lora: str | Sequence[str] | None = None,
) -> Pipeline:
    """Load a pipeline; it samples with DPM-Solver++ (Appendix B), or as its few steps need.

    Args:
        model: Folder in diffusers layout, ``.safetensors`` checkpoint (its configuration lies in
            a folder of the same name, or on the hub), or hub name. None is the built-in model.
        dtype: Precision of all its networks, by default bfloat16 on CUDA, else float32.
        device: Where to put it, by default an accelerator if there is one.
        variant: Such as ``fp16``; found by itself where a model has no other files.
        offload: Keep networks on the CPU while they do not run, as diffusers does.
        revision: Branch, tag or commit on the hub.
        resolution: Side of pictures and photos in pixels, by default the model's own.
        controlnet: A ControlNet to draw with: folder, ``.safetensors`` file or hub name.
        lora: A LoRA or several: file, folder or hub name, and ``:0.8`` for a weight but 1.

    Raises:
        ModelError: There is no such model, or it cannot be read.
    """
    home = torch.device(device or torch.accelerator.current_accelerator(True) or "cpu")
    precision = str(dtype or ("bfloat16" if home.type == "cuda" else "float32"))
    name = str(model or builtin.folder())
    pipeline = _read(name, precision.removeprefix("torch."), variant, revision)
    _settle(pipeline, resolution)
    pipeline = with_controlnet(pipeline, controlnet) if controlnet else pipeline
    load_loras(pipeline, [lora] if isinstance(lora, str) else lora or ())
    if offload is None:
        return pipeline.to(home)
    getattr(pipeline, f"enable_{offload}_cpu_offload")(device=home)
    return pipeline


def _read(model: str, dtype: str, variant: str | None, revision: str | None) -> Pipeline:
    """Read a model from the disk or the hub; say in one sentence why that cannot be done."""
    if dtype not in DTYPES:
        raise ModelError(f"found dtype {dtype}; expected one of {', '.join(DTYPES)}; choose one")
    path = Path(model).expanduser()
    expected = "a diffusers folder or a Stable Diffusion checkpoint in safetensors; fetch it again"
    with readable(f"model {model!r}", expected):
        if path.is_file():
            return _single_file(path, DTYPES[dtype])
        folder = path if path.is_dir() else _fetched(model, variant, revision)
        return _folder(folder, DTYPES[dtype], variant)


def _folder(folder: Path, dtype: torch.dtype, variant: str | None) -> Pipeline:
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"found no model_index.json in {str(folder)!r}; expected a folder in diffusers "
            "layout; give the .safetensors file itself for a single checkpoint"
        )
    variant = _variant(str(folder), _files(folder), variant)
    options = {"variant": variant, "use_safetensors": True}
    if "safety_checker" in DiffusionPipeline.load_config(folder):
        options |= {"safety_checker": None, "requires_safety_checker": False}
    return DiffusionPipeline.from_pretrained(folder, dtype=dtype, **options)


def _files(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _fetched(name: str, variant: str | None, revision: str | None) -> Path:
    """Give the local copy of a model of the hub; where it lacks weights, ask the hub once."""
    with suppress(LocalEntryNotFoundError, HFValidationError, ModelError):
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        _variant(name, _files(cached), variant)
        return cached
    try:
        siblings = HfApi().model_info(name, revision=revision, timeout=PATIENCE).siblings or []
    except Exception as error:  # noqa: BLE001 - each transport has errors of its own
        unknown = isinstance(error, HfHubHTTPError | HFValidationError)
        answer = "does not know it" if unknown else f"does not answer ({type(error).__name__})"
        raise ModelError(
            f"found no folder, file or local copy of {name!r}{f' in {variant}' if variant else ''}"
            f", and the hub {answer}; expected one of these; correct the name (on the hub it is "
            "owner/name, as 'stable-diffusion-v1-5/stable-diffusion-v1-5'), connect, or run "
            "'hf auth login'"
        ) from error
    variant = _variant(name, [file.rfilename for file in siblings], variant)
    folder = DiffusionPipeline.download(
        name, revision=revision, variant=variant, use_safetensors=True, safety_checker=None
    )
    return Path(folder)


def _single_file(path: Path, dtype: torch.dtype) -> Pipeline:
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
    if not any(key.startswith("model.diffusion_model.input_blocks.") for key in keys):
        raise ModelError(
            f"found no U-Net in {str(path)!r}; expected a checkpoint of Stable Diffusion 1.x, 2.x "
            "or XL; load other families from a folder or the hub, a LoRA beside its model "
            "with --lora, a concept with cones.load()"
        )
    xl = any(key.startswith("conditioner.") for key in keys)
    beside = path.with_suffix("")
    options = {"config": str(beside)} if (beside / "model_index.json").is_file() else {}
    options |= {} if xl else {"safety_checker": None}
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    try:
        pipeline = kind.from_single_file(str(path), dtype=dtype, **options)
    except Exception as error:  # each transport has errors of its own
        if "config" in options:
            raise
        raise ModelError(
            f"found no configuration for {path.name!r} ({first_line(error)}); expected an answer "
            f"of the hub, once, or the folder {str(beside)!r}; connect, or put the .json and .txt "
            "files of its base model's diffusers folder there"
        ) from error
    pipeline.register_to_config(_name_or_path=str(path.resolve()))
    return pipeline


def _variant(model: str, files: Iterable[str], wanted: str | None) -> str | None:
    """Choose which of a model's weight files to read; None means the plain ones."""
    found = {match[1] for name in files if (match := _WEIGHTS.fullmatch(name))}
    if wanted in found:
        return wanted
    if not found:
        raise ModelError(
            f"found no safetensors for the U-Net in {model!r}; expected them, for .bin files can "
            "run code; load it with diffusers and use_safetensors=False, then save_pretrained() it"
        )
    if wanted is None:
        return min(found)
    there = ", ".join(sorted(each or "plain" for each in found))
    raise ModelError(
        f"found variants {there} in {model!r}; expected {wanted!r}; choose one that is there"
    )


def _settle(pipeline: Pipeline, resolution: int | None) -> None:
    """Set the sampler, unless the model needs its own, and the size of pictures."""
    model_for(pipeline)  # refuses what no family knows, and a tokenizer without vocabulary
    if pipeline.vae.config.get("scaling_factor") is None:  # diffusers would divide by it
        pipeline.vae.register_to_config(scaling_factor=1.0)
    config = pipeline.scheduler.config
    own = is_distilled(pipeline) or config.get("rescale_betas_zero_snr")
    if "beta_schedule" in config and not own:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)
    if resolution is None:
        return
    if not UNetModel.knows(pipeline):
        raise ModelError(
            f"found resolution {resolution} for a {type(pipeline).__name__}; expected none, for "
            "its network was trained for its own places in a picture; leave it out"
        )
    factor = pipeline.vae_scale_factor
    step = factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if resolution < step or resolution % step:
        raise ModelError(
            f"found resolution {resolution}; expected a multiple of {step} pixels; choose one"
        )
    pipeline.unet.register_to_config(sample_size=resolution // factor)
