"""Time and exactness of putting a concept in and out, beside fusing a LoRA on the same weights.

Both work in one process on the 64 key and value layers of Stable Diffusion 1.4's shapes: shutting
1.32 % of the weights and restoring them, and peft's merge and unmerge of rank 16. An undo is exact
if every bit of every weight is back. Needs peft, which the extra ``bench`` installs.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from cones.bench.inventory import random_mask, random_weights
from cones.bench.timing import summary
from cones.errors import ConesError
from cones.find import DENSITY
from cones.intervention import Intervention
from cones.mask import ConceptMask

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
RANK = 16
UPDATE = 0.1  # scales peft's random adapter to about 2 % of the weights (root mean square)


def swap_figures(*, repeats: int = 5, lora_repeats: int = 2) -> dict[str, object]:
    """Measure ``shut`` and its undo, and LoRA fuse and unfuse, in three precisions.

    Returns:
        Per precision, milliseconds of both ways in and out, whether each undo was exact, and the
        share of weights whose bits changed.

    Raises:
        ConesError: peft is not installed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    mask = random_mask(density=DENSITY)
    try:
        precisions = {
            name: {
                "cones": _cones(mask, dtype, repeats=repeats),
                "lora": _lora(dtype, repeats=lora_repeats),
            }
            for name, dtype in DTYPES.items()
        }
    finally:
        torch.set_num_threads(threads)
    described = {"weights": mask.total, "neurons": len(mask), "rank": RANK, "threads": 1}
    return {**described, "repeats": repeats, "lora_repeats": lora_repeats, **precisions}


def _cones(mask: ConceptMask, dtype: torch.dtype, *, repeats: int) -> dict[str, object]:
    """Time shutting and restoring."""
    net = _layers(dtype)
    intervention, applied = Intervention(mask), []
    return _there_and_back(
        net,
        there=lambda: applied.append(intervention.apply(net)),
        back=lambda: applied.pop().remove(),
        names=("shut_ms", "restore_ms"),
        repeats=repeats,
    )


def _lora(dtype: torch.dtype, *, repeats: int) -> dict[str, object]:
    """Time peft's merge and unmerge on the same weights."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise ConesError(
            "peft is not installed, expected it for the comparison with LoRA; "
            "pip install 'cones[bench]'"
        ) from error
    net = _layers(dtype)
    config = LoraConfig(r=RANK, target_modules=r".*\.to_[kv]", init_lora_weights=False)
    torch.manual_seed(0)
    inject_adapter_in_model(config, net)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.mul_(UPDATE if "lora_B" in name else 1)
    layers = [m for m in net.modules() if isinstance(m, BaseTunerLayer)]
    return _there_and_back(
        net,
        there=lambda: [layer.merge() for layer in layers],
        back=lambda: [layer.unmerge() for layer in layers],
        names=("fuse_ms", "unfuse_ms"),
        repeats=repeats,
    )


def _there_and_back(
    net: nn.Module,
    *,
    there: Callable[[], object],
    back: Callable[[], object],
    names: tuple[str, str],
    repeats: int,
) -> dict[str, object]:
    """Time both ways; the first round trip warms up and decides exactness."""
    before = {n: _bits(p).clone() for n, p in net.named_parameters() if "lora" not in n}
    times: tuple[list[float], list[float]] = ([], [])
    changed = None
    for _ in range(repeats + 1):
        for call, measured in zip((there, back), times, strict=True):
            start = time.perf_counter()
            call()
            measured.append(1000 * (time.perf_counter() - start))
        if changed is None:
            after = dict(net.named_parameters())
            changed = sum(int((_bits(after[n]) != old).sum()) for n, old in before.items())
    total = sum(old.numel() for old in before.values())
    figures = {name: summary(t[1:]) for name, t in zip(names, times, strict=True)}
    return {**figures, "exact": changed == 0, "changed_share": changed / total}


def _bits(weight: torch.Tensor) -> torch.Tensor:
    """View a weight as integers, so that -0.0 and NaN count as what they are."""
    kinds = {2: torch.int16, 4: torch.int32}
    return weight.detach().view(kinds[weight.element_size()])


def _layers(dtype: torch.dtype) -> nn.Module:
    """Build the 64 linear layers under their names."""
    root = nn.Module()
    for name, weight in random_weights(dtype).items():
        *path, leaf, _ = name.split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        parent.add_module(leaf, layer)
    return root
