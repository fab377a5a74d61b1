"""What is put into a network for a while, and taken out again: hooks, and peft's LoRA and SHiRA.

peft replaces the layers that it adapts and freezes all else; on leaving, the network has its own
layers and flags back, and its weights were never written to.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
def hooked(module: nn.Module, hooks: Mapping[str, Callable[..., object]]) -> Iterator[None]:
    """Let a hook see what the layer of each weight takes and gives while the context is open."""
    with ExitStack() as stack:
        for name, hook in hooks.items():
            layer = module.get_submodule(name.removesuffix(".weight"))
            stack.callback(layer.register_forward_hook(hook).remove)
        yield


@contextmanager
def flags_kept(module: nn.Module) -> Iterator[None]:
    """On leaving, gradients reach the parameters that they reached before."""
    flags = {name: p.requires_grad for name, p in module.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(flags[name])


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

    ``config`` has ``kind`` (``lora`` or ``shira``), ``r`` and ``targets``, the ends of names.
    Without tensors that were learnt it starts anew: a LoRA's matrices from the seed, a SHiRA with
    the weights of each layer that the mask chooses.
    """
    with flags_kept(module), ExitStack() as stack:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tuner = get_peft_model(module, _config(config, mask))
        stack.callback(tuner.unload)
        if tensors is not None:
            set_peft_model_state_dict(tuner, dict(tensors))
        tuner.eval()
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # SHiRA's, every forward
            yield tuner


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
