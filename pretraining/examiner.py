"""Stage 6: the examiner, trained on composed pictures, half of them through the autoencoder.

Its networks live in ``experiments.metrics.examiner``: the one module that pretraining takes from
there. It is measured on compositions that no training saw, directly and through the autoencoder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.metrics import examiner as networks
from pretraining.loop import Recipe
from pretraining.muon import POOL
from pretraining.world.scenes import compose
from pretraining.world.stores import LookStore

RECIPE = Recipe(steps=700, batch=64, rate=2e-3, warmup=50, cooldown=0.5, average=0.99)
THROUGH = 3_000  # pictures that are shown through the autoencoder
UNSEEN = 10_000_000  # numbers from here on are composed for measuring only


def build() -> nn.ModuleDict:
    """Return the untrained networks."""
    return nn.ModuleDict({"finder": networks.Finder(), "reader": networks.Reader()})


def through(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Send pictures through the autoencoder."""

    def there_and_back(part: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(part.device.type, torch.bfloat16):
            return vae.decode(vae.encode(part).latent_dist.mean).sample.float()  # pyright: ignore

    return torch.cat(list(POOL.map(there_and_back, pixels.split(16)))).clamp(-1, 1)


def targets(rows: Sequence[dict[str, Any]], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return heat (n, 16, 16), sides (n, 4, 16, 16) and where sides count (n, 16, 16)."""
    grid = networks.GRID
    steps = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    heat = torch.zeros(len(rows), grid, grid)
    sides, near = torch.zeros(len(rows), 4, grid, grid), torch.zeros(len(rows), grid, grid)
    for k, row in enumerate(rows):
        for thing in visible(row):
            x0, y0, x1, y1 = (side / size for side in thing["box"])
            far = (x - (x0 + x1) / 2).square() + (y - (y0 + y1) / 2).square()
            bump = torch.exp(-far * grid**2 / 2)
            bump.view(-1)[far.argmin()] = 1.0  # the cell that must be found
            hit = bump > heat[k].clamp(min=0.3)
            sides[k] = torch.where(hit, torch.stack([x - x0, y - y0, x1 - x, y1 - y]), sides[k])
            near[k][hit] = 1.0
            heat[k] = torch.maximum(heat[k], bump)
    return heat, sides, near


def visible(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the things of which anything is seen."""
    return [thing for thing in row["things"] if thing["box"][2] > thing["box"][0]]


def heat_loss(found: Tensor, heat: Tensor) -> Tensor:
    """Return the focal loss of CenterNet (Zhou et al., 2019, Eq. 1), a thing."""
    share, hit = found.sigmoid(), heat == 1
    near = -(1 - share).square() * F.logsigmoid(found)
    far = -((1 - heat) ** 4) * share.square() * F.logsigmoid(-found)
    return torch.where(hit, near, far).sum() / hit.sum().clamp(min=1)


def loss(
    module: nn.ModuleDict,
    pixels: Float[Tensor, "n 3 h w"],
    rows: Sequence[dict[str, Any]],
    draw: torch.Generator,
) -> Tensor:
    """Find every thing and the place; read every trait from a box that is a little off."""
    device, size = pixels.device, pixels.shape[-1]
    noise = torch.randn(pixels.shape, generator=draw).to(device)
    pixels = pixels + 0.05 * torch.rand((), generator=draw).to(device) * noise
    heat, sides, near = (part.to(device) for part in targets(rows, size))
    crops, traits = [], []
    for picture, row in zip(pixels, rows, strict=True):
        for thing in visible(row):
            wide = 0.06 * max(thing["box"][2] - thing["box"][0], thing["box"][3] - thing["box"][1])
            off = wide * torch.randn(4, generator=draw)
            box = tuple(side + by for side, by in zip(thing["box"], off.tolist(), strict=True))
            crops.append(networks.cut(picture, box))
            traits.append([networks.TRAITS[k].index(thing[k]) for k in networks.TRAITS])
    small = F.interpolate(pixels, (networks.SIDE, networks.SIDE), mode="area")
    true = torch.tensor(traits, device=device)
    places = torch.tensor([networks.PLACES.index(row["place"]) for row in rows], device=device)
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        hot, found, place = module["finder"](small.contiguous(memory_format=torch.channels_last))
        cut = torch.stack(crops).contiguous(memory_format=torch.channels_last)
        logits = module["reader"](cut)
    off = ((found.float() - sides).abs() * near[:, None]).sum() / near.sum().clamp(min=1)
    read = [F.cross_entropy(v.float(), true[:, k]) for k, v in enumerate(logits.values())]
    return (
        heat_loss(hot.float(), heat) + 5 * off + F.cross_entropy(place.float(), places) + sum(read)
    )


def unseen(looks: Path, count: int, *, seed: int = 0) -> tuple[Tensor, list[dict[str, Any]]]:
    """Compose pictures for measuring."""
    store = LookStore.open(looks)
    made = [compose(UNSEEN + k, store, seed=seed) for k in range(count)]
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in made])).permute(0, 3, 1, 2)
    rows = [{**vars(p), "things": [vars(thing) for thing in p.things]} for p in made]
    return pixels.float() / 127.5 - 1, rows


def accuracy(
    judge: networks.Examiner, pixels: Float[Tensor, "n 3 h w"], rows: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Measure the share of right answers: place and count of all pictures, the rest of things.

    A thing counts as found if a box overlaps its own by half (``found``); the traits are those
    of found things.
    """
    right: dict[str, list[bool]] = {}
    for seen, row in zip(judge.see(pixels), rows, strict=True):
        right.setdefault("place", []).append(seen.place == row["place"])
        right.setdefault("count", []).append(seen.count == len(visible(row)))
        for thing in visible(row):
            best = max(seen.things, key=lambda s: networks.overlap(s.box, thing["box"]))  # noqa: B023
            found = networks.overlap(best.box, thing["box"]) >= 0.5
            right.setdefault("found", []).append(found)
            for key in networks.TRAITS if found else ():
                right.setdefault(key, []).append(getattr(best, key) == thing[key])
    return {key: round(sum(v) / len(v), 4) for key, v in right.items()}


def measured(
    module: nn.ModuleDict, vae: AutoencoderKL, pixels: Tensor, rows: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Measure through the autoencoder, as the U-Net's pictures come, and directly."""
    judge = networks.Examiner(module["finder"], module["reader"], {})  # pyright: ignore
    shares = accuracy(judge, through(vae, pixels), rows)
    direct = accuracy(judge, pixels, rows)
    return shares | {f"{key}, direct": share for key, share in direct.items()}


def write(module: nn.Module, path: Path, shares: dict[str, float]) -> None:
    """Write the weights as fp16, with how often they are right."""
    weights = {name: weight.half().contiguous() for name, weight in module.state_dict().items()}
    save_file(weights, path, metadata={"accuracy": json.dumps(shares)})
    path.chmod(0o644)
