"""Load what stands beside a model: a ControlNet, and LoRAs through diffusers and peft.

A LoRA is never fused: it is added to the weights that a concept shuts. diffusers leaves out in
silence what a model has no layer for; here every weight of a LoRA has to find its place.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.auto_pipeline import AutoPipelineForText2Image
from torch import nn

from cones.errors import ModelError
from cones.models import UNetModel
from cones.models.base import Pipeline


def with_controlnet(pipeline: Pipeline, name: str | Path) -> Pipeline:
    """Add a ControlNet to a pipeline."""
    path = Path(name).expanduser()
    expected = "a folder, a .safetensors file or a hub name; correct it, or connect"
    with readable(f"ControlNet {str(name)!r}", expected):
        if path.is_file():
            net = ControlNetModel.from_single_file(str(path))
        else:
            where = path if path.is_dir() else name
            net = ControlNetModel.from_pretrained(where, use_safetensors=True)
    width = net.config["cross_attention_dim"]
    if not UNetModel.knows(pipeline) or width != pipeline.unet.config.cross_attention_dim:
        raise ModelError(
            f"found a ControlNet that reads texts of width {width}; expected one for "
            f"{type(pipeline).__name__}; load a ControlNet of the model's family"
        )
    return AutoPipelineForText2Image.from_pipe(pipeline, controlnet=net.to(pipeline.unet.dtype))


def load_loras(pipeline: Pipeline, loras: Sequence[str]) -> None:
    """Load LoRAs, each as ``NAME`` or ``NAME:WEIGHT``; they are added in this order."""
    given = {f"lora{k}": _weighed(said) for k, said in enumerate(loras)}
    expected = "a .safetensors file, a folder or a hub name, for the model's family and no concept"
    advice = "with :WEIGHT behind it unless that is 1; correct it, or connect"
    for adapter, (name, _) in given.items():
        with readable(f"LoRA {name!r} for a {type(pipeline).__name__}", f"{expected}, {advice}"):
            _load(pipeline, str(Path(name).expanduser()), adapter)
    if given:
        pipeline.set_adapters([*given], [weight for _, weight in given.values()])


@contextmanager
def readable(what: str, expected: str) -> Iterator[None]:
    """Say in one sentence why something cannot be read; each transport has errors of its own."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        why = first_line(error)
        raise ModelError(f"found no readable {what} ({why}); expected {expected}") from error


def first_line(error: Exception) -> str:
    """Shorten what another library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _weighed(said: str) -> tuple[str, float]:
    """Split off the weight behind the last colon, which is 1 if left out."""
    name, _, last = said.rpartition(":")
    try:
        weight = float(last) if name else 1.0
    except ValueError:
        return said, 1.0
    if not math.isfinite(weight):
        raise ModelError(
            f"found weight {last} for {name!r}; expected a finite one; write {name}:0.8 or so"
        )
    return name or said, weight


def _load(pipeline: Pipeline, name: str, adapter: str) -> None:
    """Load one LoRA; a ValueError says how much of it has no place."""
    if name.endswith(".safetensors") and not Path(name).is_file():
        raise FileNotFoundError("no such file")
    config = {"unet_config": pipeline.unet.config} if UNetModel.knows(pipeline) else {}
    asked = pipeline.lora_state_dict(name, use_safetensors=True, **config)
    asked = asked[0] if isinstance(asked, tuple) else asked
    with warnings.catch_warnings(action="ignore"):  # of peft, that it is the second
        pipeline.load_lora_weights(name, adapter_name=adapter, use_safetensors=True)
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    placed = [n for part in parts for n, _ in part.named_parameters() if f".{adapter}." in n]
    if len(placed) < (count := sum(not key.endswith("alpha") for key in asked)):
        raise ValueError(f"{len(placed)} of {count} tensors fit")
