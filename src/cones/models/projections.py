"""Find the key and value projections of a network built from diffusers' attention layers.

Names are those of the plain network: under a LoRA, ``to_k.weight`` means the weight below it.
Layers where a write would be lost or mean something else are refused, never skipped.
"""

from torch import nn

from cones.errors import ModelError
from cones.intervention import require_writable

SCOPES = {"both": (True, False), "cross": (True,), "self": (False,)}


def projections(network: nn.Module, scope: str) -> dict[str, str]:
    """Name the weights of the key and value projections (Theta of Sec. 3.1).

    ``scope`` is ``cross`` (text), ``self`` (picture) or ``both``. Returned is, for every plain
    name, that of the live parameter, which differs under a LoRA.

    Raises:
        ModelError: Projections are fused.
        InterventionError: They are quantised or not in memory.
    """
    found = {}
    for name, module in network.named_modules():
        if not hasattr(module, "to_k") or not hasattr(module, "is_cross_attention"):
            continue
        # The processor tells what is used; the flag stays set after unfuse_qkv_projections().
        if "Fused" in type(getattr(module, "processor", None)).__name__:
            raise ModelError(
                f"found fused projections in {name!r}, where to_k and to_v are not used; "
                "expected separate ones; call pipeline.unfuse_qkv_projections()"
            )
        for leaf in ("to_k", "to_v") if module.is_cross_attention in SCOPES[scope] else ():
            below = ".base_layer" if hasattr(getattr(module, leaf), "base_layer") else ""
            live = f"{name}.{leaf}{below}.weight"
            require_writable(live, network.get_parameter(live))
            found[f"{name}.{leaf}.weight"] = live
    return found
