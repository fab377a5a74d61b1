"""What a batch of many concepts costs beside one of a single concept, and what a swap costs.

The built-in model draws eight pictures; of Stable Diffusion 1.5 there are transformer blocks of
its three sizes with random weights, four pictures with guidance. The ways: weights of its own for
every sample (what the library does), the sparse difference taken off what the full weights give,
and one concept after another. Times are CPU seconds of one thread, ratios medians over repeats in
which the ways alternate.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

import cones
from cones.concept import Concept, Word
from cones.fingerprint import Fingerprint
from cones.intervention import shut, shut_each
from cones.mask import Mask
from cones.models import Pipeline, model_for
from cones.models.base import Progress
from cones.models.projections import projections
from experiments.library import DENSITY, drawn, shapes_of, timed
from experiments.memory import SIZES
from experiments.methods.adapters import hooked

REPEATS, SWAPS = 7, 1_000
BLOCKS = {320: 4096, 640: 1024, 1280: 256}  # width and tokens of SD 1.5's attention at 512 pixels
Call: TypeAlias = Callable[[slice], Tensor]  # computes some rows of a batch


def masks_for(module: nn.Module, count: int) -> Iterator[Mask]:
    """Draw masks that share no more than chance, over all projections of a network."""
    found = projections(module, "both")
    shapes = {name: tuple(module.get_parameter(name).shape) for name in found}
    return (drawn(10 * number, shapes) for number in range(count))


def corrected(module: nn.Module, masks: Sequence[Mask]) -> AbstractContextManager[None]:
    """Subtract in every layer what each sample's shut weights would have given."""
    n, hits, hooks = len(masks), [mask.hits() for mask in masks], {}

    def subtract(
        differences: list[Tensor], _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        for k, difference in enumerate(differences):
            rows = inputs[0][k::n].reshape(-1, inputs[0].shape[-1])
            output[k::n] -= (difference @ rows.T).T.reshape(output[k::n].shape)
        return output

    for name in masks[0]:
        weight = module.get_parameter(name).detach()
        hooks[name] = partial(subtract, [(weight * hit[name]).to_sparse_csr() for hit in hits])
    return hooked(module, hooks)


@torch.no_grad()
def compared(
    key: str, module: nn.Module, call: Call, n: int, repeats: int
) -> list[dict[str, Any]]:
    """Time a forward of ``n`` samples by every way beside one with a single concept."""
    masks = [*masks_for(module, n)]

    def alone() -> list[Tensor]:
        made = []
        for k, mask in enumerate(masks):
            with shut(module, mask):
                made.append(call(slice(k, None, n)))
        return made

    def together() -> list[Tensor]:
        made = call(slice(None))
        return [made[k::n] for k in range(n)]

    ways = {
        "single": (lambda: shut(module, masks[0]), together),
        "own-weights": (lambda: shut_each(module, [[(mask, 1.0)] for mask in masks]), together),
        "corrections": (lambda: corrected(module, masks), together),
        "in-turn": (nullcontext, alone),
    }
    spent, found = {way: list[float]() for way in ways}, dict[str, list[Tensor]]()
    for _ in range(repeats):
        for way, (context, forward) in ways.items():
            with context():
                seconds, found[way] = timed(forward)
            spent[way].append(seconds)
    rows, size = [], max(float(each.abs().max()) for each in found["in-turn"])
    for way, seconds in spent.items():
        ratio = median(a / b for a, b in zip(seconds, spent["single"], strict=True))
        row = {"key": f"{key}-{way}", "ms": 1000 * median(seconds), "ratio": ratio}
        pairs = zip(found[way], found["in-turn"], strict=True)
        rows.append(row | {"off": max(float((a - b).abs().max()) for a, b in pairs) / size})
    return rows


def forwards(pipeline: Pipeline, progress: Progress) -> list[dict[str, Any]]:
    """Compare the ways on the built-in U-Net and on the blocks of Stable Diffusion 1.5."""
    draw, unet = torch.Generator().manual_seed(0), pipeline.unet
    noise = torch.randn(16, *model_for(pipeline).latent_shape, generator=draw)
    text = torch.randn(16, pipeline.tokenizer.model_max_length, 384, generator=draw)

    def whole(rows: slice) -> Tensor:
        return unet(noise[rows], torch.tensor(500), encoder_hidden_states=text[rows]).sample

    found = compared("built-in", unet, whole, 8, REPEATS)
    said = torch.randn(8, 77, 768, generator=draw)
    for width, tokens in BLOCKS.items():
        progress("batch", len(found), 16, f"block of width {width}")
        block = BasicTransformerBlock(width, 8, width // 8, cross_attention_dim=768).eval()
        rows = torch.randn(8, tokens, width, generator=draw)

        def part(some: slice, block: nn.Module = block, rows: Tensor = rows) -> Tensor:
            return block(rows[some], encoder_hidden_states=said[some])

        found += compared(f"sd15-{width}", block, part, 4, 3)
    return found


def concepts_for(pipeline: Pipeline, count: int) -> Iterator[Concept]:
    """Draw concepts that all call their subject V*."""
    model, draw = model_for(pipeline), torch.Generator().manual_seed(0)
    base, shapes = Fingerprint.of(model.weights(), "built-in"), shapes_of(model)
    table = pipeline.text_encoder.get_input_embeddings().weight
    for number in range(count):
        row = table[torch.randint(len(table), (1,), generator=draw)].detach().clone()
        word = Word("V*", "cat", {"text_encoder": row})
        yield Concept((drawn(10 * number, shapes),), (word,), base)


def pictures(pipeline: Pipeline, progress: Progress) -> dict[str, float]:
    """Time eight whole pictures, and compare those of a batch with those drawn alone."""
    concepts, said = list(concepts_for(pipeline, 8)), "a V* cat in the snow"
    requests = [cones.Request(said, each, seed=k) for k, each in enumerate(concepts)]
    ways = {
        "one": lambda: cones.generate(pipeline, concepts[0], said, seeds=range(8)),
        "many": lambda: cones.generate(pipeline, requests),
    }
    spent, made = {way: list[float]() for way in ways}, dict[str, np.ndarray]()
    for repeat in range(REPEATS):
        for way, draw in ways.items():
            seconds, found = timed(draw)
            spent[way].append(seconds)
            made[way] = np.stack([np.asarray(each, int) for each in found])
        progress("batch", repeat + 1, REPEATS, "pictures")
    alone = [cones.generate(pipeline, c, said, seeds=[k])[0] for k, c in enumerate(concepts)]
    off = np.abs(made["many"] - np.stack([np.asarray(each, int) for each in alone]))
    return {
        **{f"{way}_seconds": median(seconds) for way, seconds in spent.items()},
        "ratio": median(a / b for a, b in zip(spent["many"], spent["one"], strict=True)),
        "largest_difference": int(off.max()),
        "share_that_differs": float((off > 0).mean()),
        "largest_between_concepts": int(np.abs(made["many"] - made["one"]).max()),
    }


def swapped(
    key: str, swaps: Iterator[AbstractContextManager[None]], progress: Progress
) -> dict[str, Any]:
    """Time swaps between many concepts: the first hundred and the last."""
    spent = []
    for number, swap in enumerate(swaps):
        spent.append(timed(partial(_through, swap))[0])
        progress("batch", number + 1, SWAPS, f"swaps of {key}")
    first, last = (1000 * median(part) for part in (spent[:100], spent[-100:]))
    return {"key": key, "first_ms": first, "last_ms": last, "ratio": last / first}


def _through(swap: AbstractContextManager[None]) -> None:
    with swap:
        pass


def swaps(pipeline: Pipeline, progress: Progress) -> list[dict[str, Any]]:
    """Swap between a thousand concepts: whole ones in the built-in model, masks at full size."""
    whole = (concept.applied(pipeline) for concept in concepts_for(pipeline, SWAPS))
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES["sd15"])
    for name, layer in unet.named_modules():
        if name.endswith((".to_k", ".to_v")):
            layer.weight = nn.Parameter(torch.randn(layer.weight.shape))
    full = (shut(unet, mask) for mask in masks_for(unet, SWAPS))
    return [swapped("built-in", whole, progress), swapped("sd15", full, progress)]


def results(_: Path, progress: Progress) -> dict[str, Any]:
    """Measure forwards, pictures and swaps."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pipeline = cones.load_pipeline(dtype="float32", device="cpu")
    found = {"forwards": forwards(pipeline, progress), "swaps": swaps(pipeline, progress)}
    return found | {"pictures": pictures(pipeline, progress), "density": DENSITY}
