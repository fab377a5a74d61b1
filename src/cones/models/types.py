"""Names for what is passed between models, searches and pictures. Nothing here loads diffusers."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

Pipeline: TypeAlias = Any  # a diffusers pipeline: its parts differ by class, model_for checks them
Part: TypeAlias = Any  # a network, tokenizer or scheduler in it, for the same reason
Condition: TypeAlias = Mapping[str, Tensor]
Arguments: TypeAlias = Mapping[str, Part]  # of a network's forward
Latents: TypeAlias = Float[Tensor, "n c y x"]
Times: TypeAlias = Int[Tensor, " n"]
Progress: TypeAlias = Callable[..., object]  # progress(stage, done, total, note="")
