"""What a search costs at full size: peak memory and arithmetic, measured without allocating.

U-Nets of the published sizes are built of fake tensors. One gradient of a search runs on them, by
the library's own code, while every live byte is counted: the peak of what PyTorch allocates, which
leaves out its caching and the work space of kernels. What stays (weights, state) is added up.
"""

import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from cones.files import write_atomic
from cones.models.protocol import Model, Progress
from cones.models.unet import UNetModel
from cones.models.words import RARE_WORDS
from cones.search.find import CONTROLS
from cones.search.memory import STATE, USABLE
from cones.search.settings import Settings
from experiments.checkpoints import write_page
from experiments.small import small
from experiments.tables import write_results

Known: TypeAlias = Callable[..., dict[str, int]]  # measures, or finds a measure
CARDS = (24, 16, 12, 8, 6)  # GB
ENCODERS = {"sd15": 207e6, "sd21": 424e6, "sdxl": 901e6}  # parameters of text encoders and VAE
SPEEDS = {"rtx3060": 0.4 * 25.5e12, "rtx4090": 0.4 * 165e12}  # operations a second: 40 % of peak
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
    """Counts bytes of tensors that are alive (``now``, ``peak``), and operations (``flop``).

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
            if isinstance(tensor, Tensor):
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


def one_gradient(model: Model, samples: int) -> None:
    """Take one gradient of the shut weights, as a search does for each micro-batch."""
    noised, times = torch.empty(samples, *model.latent_shape), torch.zeros(samples).long()
    shut = {n: w.clone().requires_grad_() for n, w in model.weights().items()}
    predicted = model.predict(shut, noised, times, model.condition([""] * samples))
    if torch.is_grad_enabled():
        torch.autograd.grad(predicted.square().mean(), list(shut.values()))


def at_rest(name: str) -> dict[str, int]:
    """Measure what does not depend on settings: bytes beyond the weights, and operations."""
    with full_size(name) as model, torch.no_grad():
        network, vae = model.module, model.pipeline.vae
        with Live(vae.parameters()) as decoding:
            vae.decode(torch.empty(1, *model.latent_shape).bfloat16())
        with Live(network.parameters()) as forward:
            one_gradient(model, 2)  # guidance asks twice
        found = {"weights": sum(w.nbytes for w in network.parameters())}
        found["searched"] = sum(w.numel() for w in model.weights().values())
        return found | {"drawing": max(decoding.peak, forward.peak), "flop": forward.flop // 2}


def searching(name: str, samples: int, *, checkpointing: bool) -> dict[str, int]:
    """Measure one gradient: peak bytes beyond the weights, and operations a sample."""
    with full_size(name) as model:
        if checkpointing:
            model.module.enable_gradient_checkpointing()
        with Live(model.module.parameters()) as live:
            one_gradient(model, samples)
    return {"peak": live.peak, "flop": live.flop // samples}


def passes(settings: Settings) -> tuple[int, int]:
    """Count the samples that a search sends through the network: with and without gradient."""
    steps, prior = settings.steps + settings.score_steps, settings.prior_batch
    # Guidance asks twice; a certificate takes nine looks; V* has candidates, each asked 4 times.
    pictures = (settings.prior_count + 2 * CONTROLS) * settings.prior_steps * 2
    rest = 9 * settings.draws + pictures + 4 * (1 + len(RARE_WORDS))
    return steps * (settings.batch + prior), steps * prior + rest


def way_for(name: str, card: int, known: Known) -> tuple[dict[str, Any], dict[str, int], float]:
    """Choose the fastest way that fits, or the leanest: settings, its gradient, the peak in GB."""
    rest = known(at_rest, name)
    for recompute, scores, samples in product((False, True), ("device", "cpu"), (8, 4, 2, 1)):
        step = known(searching, name, samples, checkpointing=recompute)
        state = STATE * rest["searched"] if scores == "device" else 0
        drawing = 2 * ENCODERS[name] + rest["drawing"]
        gb = (rest["weights"] + max(state + step["peak"], drawing)) / 1e9
        settings = {"micro_batch": samples, "checkpointing": recompute, "scores": scores}
        if gb <= USABLE * card:
            break
    return settings, step, gb


def row_of(name: str, card: int, known: Known) -> dict[str, Any]:
    """Say what a search takes on a card."""
    given, (settings, step, gb) = Settings(), way_for(name, card, known)
    deep, shallow = passes(given)
    flop = deep * step["flop"] + shallow * known(at_rest, name)["flop"]
    row = {"key": f"{name}-{card}", "model": name, "card": card}
    row |= {"height": 8 * SIZES[name]["sample_size"], "gb": round(gb, 2)}
    row |= {"fits": gb <= USABLE * card, "pflop": round(flop / 1e15, 2)}
    row |= {f"minutes_{gpu}": round(flop / s / 60, 1) for gpu, s in SPEEDS.items()}
    return row | {"settings": settings | {"batch": given.batch, "dtype": "bfloat16"}}


def run(work: Path, docs: Path, progress: Progress) -> Path:
    """Measure what has no record in ``work`` yet, and write results and page."""
    path, rows = work / "memory.json", []
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def known(
        measure: Callable[..., dict[str, int]], *given: object, **options: object
    ) -> dict[str, int]:
        key = " ".join(map(str, (measure.__name__, *given, *options.values())))
        if key not in record:
            record[key] = measure(*given, **options)
            write_atomic(path, json.dumps(record, indent=1).encode())
        return record[key]

    for name, card in product(SIZES, CARDS):
        rows.append(row_of(name, card, known))
        progress("memory", len(rows), len(SIZES) * len(CARDS), f"{name}, {card} GB")
    today = {}  # one sample at once, all on the device: what ``find`` does with micro_batch=1
    for name in SIZES:
        rest, step = known(at_rest, name), known(searching, name, 1, checkpointing=False)
        today[name] = (rest["weights"] + STATE * rest["searched"] + step["peak"]) / 1e9
    write_results(docs, "memory", {"rows": rows, "today": today, "measured": record})
    return write_page(docs)
