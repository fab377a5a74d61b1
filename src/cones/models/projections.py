"""Find the key and value projections of a network built from diffusers' attention layers.

In joint attention those of the text stream are ``cross``; those of the picture, and of blocks
where one pair serves both, are ``self``.
Names are those of the plain network: under a LoRA, ``to_k.weight`` means the weight below it.
Layers where a write would be lost or mean something else are refused, never skipped.
"""

from torch import nn

from cones.errors import ModelError
from cones.intervention import require_writable

SCOPES = {"both": (True, False), "cross": (True,), "self": (False,)}
OF_TEXT = ("add_k_proj", "add_v_proj")


def projections(network: nn.Module, scope: str) -> dict[str, str]:
    """Name the weights of the key and value projections (Theta of Sec. 3.1).

    ``scope`` is ``cross`` (text), ``self`` (picture) or ``both``. Returned is, for every plain
    name, that of the live parameter, which differs under a LoRA.
    """
    found = {}
    for name, module in network.named_modules():
        if not hasattr(module, "to_k") or not hasattr(module, "processor"):
            continue
        # The processor tells what is used; of older layers the flag stays set after unfusing.
        cross, own = getattr(module, "is_cross_attention", None), module.processor
        fused = cross is None and getattr(module, "fused_projections", False)
        if fused or "Fused" in type(own).__name__:
            raise ModelError(
                f"found fused projections in {name!r}, where to_k and to_v are not used; "
                "expected separate ones; call pipeline.unfuse_qkv_projections()"
            )
        leaves = {"to_k": bool(cross), "to_v": bool(cross), **dict.fromkeys(OF_TEXT, True)}
        for leaf, of_text in leaves.items():
            if getattr(module, leaf, None) is None or of_text not in SCOPES[scope]:
                continue
            below = ".base_layer" if hasattr(getattr(module, leaf), "base_layer") else ""
            live = f"{name}.{leaf}{below}.weight"
            require_writable(live, network.get_parameter(live))
            found[f"{name}.{leaf}.weight"] = live
    return found
