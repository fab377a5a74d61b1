"""LoRA and SHiRA by peft: layers put into a network for a while, and taken out again.

peft replaces the layers that it adapts and freezes all else; on leaving, the network has its own
layers and flags back, and its weights were never written to.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    ShiraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn

MaskFn = Callable[..., Tensor]  # (layer, r) -> ones where values are trained


@contextmanager
def adapted(
    module: nn.Module,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    *,
    mask: MaskFn | None = None,
    seed: int = 0,
) -> Iterator[nn.Module]:
    """Put an adapter into the network while the context is open, and give peft's view of it.

    Args:
        module: The network, which is adapted in place.
        config: ``kind`` (``lora`` or ``shira``), ``r`` and ``targets``, the ends of names.
        tensors: What it has learnt; None starts anew.
        mask: Of a new SHiRA: which weights of a layer it trains.
        seed: Of a new LoRA's matrices.
    """
    flags = {name: p.requires_grad for name, p in module.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = get_peft_model(module, _config(config, mask))
    try:
        if tensors is not None:
            set_peft_model_state_dict(tuner, dict(tensors))
        tuner.eval()
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # SHiRA's, every forward
            yield tuner
    finally:
        tuner.unload()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(flags[name])


def state_of(tuner: nn.Module) -> dict[str, Tensor]:
    """Copy what an adapter holds, by peft's names."""
    return {n: t.detach().cpu().clone() for n, t in get_peft_model_state_dict(tuner).items()}


def _config(config: Mapping[str, Any], mask: MaskFn | None) -> PeftConfig:
    r, targets = config["r"], list(config["targets"])
    if config["kind"] == "lora":
        return LoraConfig(r=r, lora_alpha=r, init_lora_weights="gaussian", target_modules=targets)
    found = ShiraConfig(r=r, target_modules=targets)
    if mask is not None:
        found.mask_fn = mask
    return found
