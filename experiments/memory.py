"""What a search costs at full size: peak memory and arithmetic, measured without allocating.

U-Nets of the published sizes are built of fake tensors. The library is told of a card, chooses how
to search on it, and takes one step so, while every live byte is counted: the peak of what PyTorch
allocates, which leaves out its caching and the work space of kernels. Fake tensors on the CPU are
those of the card, and fake ones on "meta" those in the computer's memory.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from cones.models.base import Model, Progress
from cones.models.unet import UNetModel
from cones.models.words import RARE_WORDS
from cones.search import memory
from cones.search.loss import Examples, ImplantingLoss, Weights, together
from cones.search.score import score_accelerated
from cones.search.settings import Settings
from cones.search.start import ROUNDS
from experiments.small import small

CARDS = (24, 16, 12, 8, 6)  # GB
ENCODERS = {"sd15": 207e6, "sd21": 424e6, "sdxl": 901e6}  # parameters of text encoders and VAE
SPEEDS = {"rtx3060": 0.4 * 25.5e12, "rtx4090": 0.4 * 165e12}  # operations a second: 40 % of peak
START = sum(min(len(RARE_WORDS), most or 99) * count for most, count in ROUNDS)  # samples for V*
START += 2 * ROUNDS[-1][1]  # what it gains
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 4}
VAE |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
_SD2 = {"cross_attention_dim": 1024, "use_linear_projection": True}
_XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
_XL |= {"projection_class_embeddings_input_dim": 2816, "use_linear_projection": True}
_XL |= {"down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2)}
_XL |= {"up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D")}
_XL |= {"transformer_layers_per_block": (1, 2, 10), "block_out_channels": (320, 640, 1280)}
_XL |= {"attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048}
SIZES: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {"sample_size": 96, "attention_head_dim": (5, 10, 20, 20), **_SD2},
    "sdxl": {"sample_size": 128, **_XL},
}
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
FORMULAS = {**flop_registry, _FLASH: sdpa_flop, _FLASH_BACKWARD: sdpa_backward_flop}


class Live(TorchDispatchMode):
    """Counts bytes of tensors alive on the CPU (``now``, ``peak``), and operations (``flop``).

    PyTorch's own counter of operations would keep recomputed tensors alive.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Leave out the storages of tensors that were there before."""
        super().__init__()
        self.now = self.peak = self.flop = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204, D105
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in FORMULAS:
            formula = FORMULAS[func.overloadpacket]
            self.flop += formula(*args, **(kwargs or {}), out_val=found)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                self._see(tensor.untyped_storage())
        return found

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextmanager
def full_size(name: str) -> Iterator[Model]:
    """Build a model of the published size that takes no memory, in bfloat16."""
    # Fake tensors are no weights that could be edited, which the library asks for.
    with FakeTensorMode(), patch("cones.models.projections.require_writable"):
        pipeline = small()
        torch.set_default_dtype(torch.bfloat16)
        try:
            unet, vae = UNet2DConditionModel(**SIZES[name]), AutoencoderKL(**VAE)
        finally:
            torch.set_default_dtype(torch.float32)
        pipeline.register_modules(unet=unet, vae=vae)
        widths = {"encoder_hidden_states": (77, unet.config.cross_attention_dim)}
        widths |= {"text_embeds": (1280,), "time_ids": (6,)} if name == "sdxl" else {}
        model = UNetModel(pipeline)
        # The small pipeline's text encoder is too narrow.
        model.condition = lambda said: {n: torch.empty(len(said), *w) for n, w in widths.items()}
        yield model


def one_step(model: Model, settings: Settings, weights: Weights) -> Tensor:
    """Take one step of a search, with as many samples as are in the network at once."""
    count = settings.micro_batch or 1
    said = model.condition([""] * count)
    shown = Examples(torch.zeros(count, *model.latent_shape), said)
    losses = together([ImplantingLoss(model, shown, batch=count)], purpose="step", seed=0)
    # Fake tensors have no values: every number is 1, and every question is answered by yes.
    with patch.multiple(Tensor, __float__=lambda _: 1.0, __bool__=lambda _: True):
        return score_accelerated(losses, weights, steps=1, rate=1e-3)


def rows_of(name: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """Say what a search takes on each card, and how it is done there."""
    known: dict[str, Live] = {}
    with full_size(name) as model, patch.object(memory, "HOME", torch.device("meta")):
        network, vae, cost = model.module, model.pipeline.vae, memory.measured(model, "")
        weights = sum(w.nbytes for w in network.parameters())
        with torch.no_grad(), Live(vae.parameters()) as decoding:
            vae.decode(torch.empty(1, *model.latent_shape).bfloat16())
        with torch.no_grad(), Live(network.parameters()) as drawing:  # guidance asks twice
            noised, times = torch.empty(2, *model.latent_shape), torch.zeros(2).long()
            model.predict({}, noised, times, model.condition(["", ""]))
        beside = 2 * ENCODERS[name] + max(decoding.peak, drawing.peak)  # while pictures are drawn
        for card in CARDS:
            told, room = list[str](), (1 - memory.SPARE) * card * 1e9
            free = {"cpu": lambda _, card=card: (card * 1e9 - weights, card * 1e9)}
            way = memory.fitted(model, settings, cost, lambda *at, told=told: told.append(at[-1]))
            with patch.dict(memory.FREE, free), way as (chosen, searched):
                how = told[0].partition(":")[0]
                if how not in known:
                    with Live(network.parameters()) as known[how]:
                        one_step(model, chosen, searched)
            step, (deep, shallow) = known[how], memory.passes(settings)
            offload = weights + beside > room
            peak = weights + (step.peak if offload else max(step.peak, beside))
            flop = deep * step.flop / chosen.micro_batch + (shallow + START) * drawing.flop / 2
            row = {"key": f"{name}-{card}", "model": name, "card": card, "fits": peak <= room}
            row |= {"height": 8 * SIZES[name]["sample_size"], "gb": round(peak / 1e9, 2)}
            row |= {"way": how, "offload": offload, "pflop": round(flop / 1e15, 2)}
            row |= {f"minutes_{gpu}": round(flop / s / 60, 1) for gpu, s in SPEEDS.items()}
            given = {"batch": settings.batch, "micro_batch": chosen.micro_batch}
            yield row | {"settings": given | {"dtype": "bfloat16"}}


def results(_: Path, progress: Progress) -> dict[str, Any]:
    """Measure all models on all cards."""
    rows = []
    for name in SIZES:
        for row in rows_of(name, Settings()):
            rows.append(row)
            progress("memory", len(rows), len(SIZES) * len(CARDS), row["key"])
    return {"rows": rows}
