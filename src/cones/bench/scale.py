"""One step of a search on the full U-Net of Stable Diffusion 1.4 (860 M weights, random values).

No checkpoint is needed: time and memory of a step depend on shapes alone. The subject and the
prior are one random latent of 64 x 64 each, which is the smallest batch a search can use.
"""

import resource
import sys
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch

from cones.backbones.unet import UNetBackbone
from cones.find import DENSITY
from cones.intervention import shut
from cones.mask import ConceptMask
from cones.objective import Examples, ImplantingLoss
from cones.search import score_moments
from cones.select import select
from cones.state import run

TOKENS, WIDTH = 77, 768


def full_unet() -> Any:
    """Build the U-Net of Stable Diffusion 1.4 with random weights, float32 (3.4 GB)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
    )


def _backbone(unet: Any) -> UNetBackbone:
    """Wrap a lone U-Net: a step of the search needs nothing else of a pipeline."""
    from diffusers import DDPMScheduler

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    unused = {"text_encoder": unet, "tokenizer": unet, "encode_prompt": unet}
    vae = SimpleNamespace(config=SimpleNamespace(latent_channels=4))
    scheduler = DDPMScheduler(**config, steps_offset=1)
    return UNetBackbone(SimpleNamespace(unet=unet, vae=vae, scheduler=scheduler, **unused))


def scale_figures(*, steps: int = 2) -> dict[str, Any]:
    """Time gradients, and measure memory and one shut and restored mask, at full size.

    Args:
        steps: Gradients to take; the first one warms up and is reported apart.
    """
    torch.manual_seed(0)
    backbone = _backbone(full_unet())
    one = Examples(torch.randn(1, 4, 64, 64), {"encoder_hidden_states": _states()})
    loss = ImplantingLoss(backbone, one, one, batch=1)
    weights = backbone.weights("both")
    ticks = [time.monotonic()]
    moments = run(
        score_moments(lambda step: loss.at(step, seed=0), weights, steps=steps),
        lambda progress: ticks.append(time.monotonic()),
    )
    mask = select(moments.consistency, weights, density=DENSITY)
    return {
        "weights": sum(p.numel() for p in backbone.module.parameters()),
        "searched": sum(w.numel() for w in weights.values()),
        "sites": len(weights),
        "batch": "1 subject + 1 prior latent of 64 x 64, float32",
        "seconds_per_gradient": [round(b - a, 2) for a, b in pairwise(ticks)],
        "peak_memory_gb": round(_peak_gb(), 2),
        "neurons": len(mask),
        "exact_undo": _exact(backbone.module, mask),
    }


def _states() -> torch.Tensor:
    return torch.randn(1, TOKENS, WIDTH)


def _peak_gb() -> float:
    """Peak resident memory of this process; the unit differs between systems."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _exact(unet: torch.nn.Module, mask: ConceptMask) -> bool:
    """Shut and restore once, and say whether every bit of the touched sites came back."""
    live = dict(unet.named_parameters())
    before = {name: live[name].detach().clone() for name in mask}
    with shut(unet, mask):
        closed = all((live[n].view(-1)[i] == 0).all() for n, i in mask.indices.items())
    return bool(closed) and all(torch.equal(before[name], live[name]) for name in mask)
