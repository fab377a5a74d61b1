"""Find the key and value projections of a network built from diffusers' attention layers.

Names are those of the live parameters. Layers where a write would be lost or mean something
else (fused, under a LoRA, quantised, offloaded) are refused rather than skipped.
"""

from torch import Tensor, nn

from cones.errors import BackboneError

SCOPES = {"both": ("cross", "self"), "cross": ("cross",), "self": ("self",)}
_PROJECTIONS = ("to_k", "to_v", "add_k_proj", "add_v_proj")


def projections(network: nn.Module, scope: str) -> tuple[str, ...]:
    """Name the weights of the key and value projections (Theta of Sec. 3.1).

    Args:
        network: Built from diffusers' attention layers.
        scope: ``cross`` (text), ``self`` (picture) or ``both``.

    Raises:
        BackboneError: Unknown scope, or projections that cannot be edited.
    """
    if scope not in SCOPES:
        raise BackboneError(
            f"found scope {scope!r}; expected one of {', '.join(SCOPES)}; choose one of these"
        )
    found = []
    for name, module in network.named_modules():
        if not hasattr(module, "to_k") or not hasattr(module, "is_cross_attention"):
            continue
        kind = "cross" if module.is_cross_attention else "self"
        if kind in SCOPES[scope]:
            found += _of_layer(name, module)
    return tuple(found)


def _of_layer(name: str, module: nn.Module) -> list[str]:
    # The processor tells what is used; the flag stays set after unfuse_qkv_projections().
    if "Fused" in type(getattr(module, "processor", None)).__name__:
        raise BackboneError(
            f"found fused projections in {name!r}, where to_k and to_v are no longer used; "
            "expected separate ones; call pipeline.unfuse_qkv_projections()"
        )
    found = []
    for leaf in _PROJECTIONS:
        layer = getattr(module, leaf, None)
        if layer is None:  # a layer that reads the text only has no to_k of its own
            continue
        if hasattr(layer, "base_layer"):
            raise BackboneError(
                f"found a LoRA on '{name}.{leaf}'; expected plain weights; "
                "call pipeline.unload_lora_weights(), or fuse it first"
            )
        _require_editable(f"{name}.{leaf}.weight", layer.weight)
        found.append(f"{name}.{leaf}.weight")
    return found


def _require_editable(name: str, weight: Tensor) -> None:
    plain = type(weight.data) is Tensor and weight.is_floating_point()
    if not plain or weight.element_size() < 2:
        raise BackboneError(
            f"found {name!r} quantised ({weight.dtype}); expected float32, float16 or bfloat16; "
            "load the model without quantisation or layerwise casting"
        )
    if weight.is_meta:
        raise BackboneError(
            f"found {name!r} without memory (device 'meta'); expected it on the CPU or an "
            "accelerator; work on the model before offloading it"
        )
