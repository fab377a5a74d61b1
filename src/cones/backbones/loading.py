"""Load a pipeline from a folder or a Hub name, or the model that ships with the library.

Weights come from safetensors only. The safety checker is left out because it would blacken
prior pictures and measurements; put one back before you show pictures to others.
"""

import json
from pathlib import Path
from typing import Any

import torch

from cones.errors import BackboneError


def load_pipeline(
    model: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a text-to-image pipeline that samples with DPM-Solver (Appendix B).

    Args:
        model: Folder in diffusers layout, or a Hub name. ``None`` is the built-in model.
        device: Where to put it.
        dtype: Precision of all its networks.

    Raises:
        BackboneError: There is no such model, or it cannot be read.
    """
    from diffusers import DiffusionPipeline

    source = _builtin() if model is None else model
    folder = Path(source)
    if _is_path(source) and not folder.exists():
        raise BackboneError(
            f"found no folder {str(source)!r}; expected a model in diffusers layout, or a Hub "
            "name such as CompVis/stable-diffusion-v1-4; correct the path"
        )
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise BackboneError(
            f"found no model_index.json in {str(source)!r}; expected a folder in diffusers "
            "layout; convert a single checkpoint with diffusers first"
        )
    try:
        parts = _without_checker(source, folder)
        pipeline = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **parts
        )
    except (OSError, ValueError, RuntimeError, TypeError, json.JSONDecodeError) as error:
        raise BackboneError(
            f"found no readable model {str(source)!r} ({_short(error)}); expected a folder in "
            "diffusers layout or a model in the local Hub cache; download it first"
        ) from error
    _set_sampler(pipeline)
    return pipeline.to(device)


def _is_path(source: str | Path) -> bool:
    """Tell a path from a Hub name: ``owner/name``, or one word."""
    return isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1


def _builtin() -> Path:
    from cones.mini import weights_path  # the built-in model is itself built on this layer

    return weights_path()


def _without_checker(source: str | Path, folder: Path) -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    if folder.exists():
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    else:
        index = DiffusionPipeline.load_config(str(source))
    unwanted = {"safety_checker": None, "requires_safety_checker": False}
    return {name: value for name, value in unwanted.items() if name in index}


def _set_sampler(pipeline: Any) -> None:
    from diffusers import DPMSolverMultistepScheduler

    config = pipeline.scheduler.config
    if "beta_schedule" in config:  # flow-matching samplers stay as they are
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
