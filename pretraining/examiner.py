"""Trains the examiner on composed pictures, half of them through the autoencoder; measures it.

Its networks live in ``experiments.metrics.examiner``: the one module that pretraining takes from
there. It never sees a picture that a U-Net drew.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.metrics import examiner as networks
from pretraining import autoencoder
from pretraining.loop import Stage, Work, averaged, console, in_turn, pixels_of
from pretraining.muon import WORKERS
from pretraining.world.production import compose_pictures
from pretraining.world.stores import PictureStore

UNSEEN = 10_000_000  # numbers from here on are composed for measuring only
NEAR = 0.3  # heat from which a cell tells the sides
LEFT = "to the left of"
SIDES = (LEFT, "to the right of")
Row = Mapping[str, Any]
Asked = tuple[Sequence[Row], str, str | None]  # things, place, relation


def visible(row: Row) -> list[dict[str, Any]]:
    """Return the things of which anything is seen."""
    return [thing for thing in row["things"] if thing["box"][2] > thing["box"][0]]


def targets(rows: Sequence[Row], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return heat (n, 16, 16), sides (n, 4, 16, 16) and where sides count (n, 16, 16)."""
    grid = networks.GRID
    steps = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    heat, sides = torch.zeros(len(rows), grid, grid), torch.zeros(len(rows), 4, grid, grid)
    for k, row in enumerate(rows):
        for thing in visible(row):
            x0, y0, x1, y1 = (side / size for side in thing["box"])
            far = (x - (x0 + x1) / 2).square() + (y - (y0 + y1) / 2).square()
            bump = torch.exp(-far * grid**2 / 2)
            bump.view(-1)[far.argmin()] = 1.0  # the cell that must be found
            hit = bump > heat[k].clamp(min=NEAR)
            sides[k] = torch.where(hit, torch.stack([x - x0, y - y0, x1 - x, y1 - y]), sides[k])
            heat[k] = torch.maximum(heat[k], bump)
    return heat, sides, heat > NEAR


def heat_loss(found: Tensor, heat: Tensor) -> Tensor:
    """Return the focal loss of CenterNet (Zhou et al., 2019, Eq. 1), a thing."""
    share, hit = found.sigmoid(), heat == 1
    near = -(1 - share).square() * F.logsigmoid(found)
    far = -((1 - heat) ** 4) * share.square() * F.logsigmoid(-found)
    return torch.where(hit, near, far).sum() / hit.sum().clamp(min=1)


class Examiner(Stage[nn.ModuleDict]):
    """Trains the finder on whole pictures, the reader on boxes that are a little off."""

    def _build(self) -> nn.ModuleDict:
        return nn.ModuleDict({"finder": networks.Finder(), "reader": networks.Reader()})

    def _prepare(self) -> Tensor:
        self.vae, self.latents = autoencoder.finished(self.work), autoencoder.latents(self.work)
        return super()._prepare()

    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        """Find every thing and the place; read every trait."""
        half, device = len(index) // 2, self.work.device
        latents = self.latents[index[half:]].to(device).float()
        pixels = torch.cat(
            [self.work.pixels(index[:half]), autoencoder.decoded(self.vae, latents)]
        )
        noise = torch.randn(pixels.shape, generator=draw).to(device)
        pixels += 0.05 * torch.rand((), generator=draw).to(device) * noise
        rows = [self.work.pictures.rows[i] for i in index.tolist()]
        small = F.interpolate(pixels, (networks.SIDE, networks.SIDE), mode="area")
        crops, traits = cut_out(pixels, rows, draw)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            hot, found, place = self.module["finder"](small)
            logits = self.module["reader"](crops)
        heat, sides, near = (part.to(device) for part in targets(rows, pixels.shape[-1]))
        off = ((found.float() - sides).abs() * near[:, None]).sum() / near.sum().clamp(min=1)
        places = torch.tensor([networks.PLACES.index(row["place"]) for row in rows], device=device)
        read = [F.cross_entropy(v.float(), traits[:, k]) for k, v in enumerate(logits.values())]
        placed = F.cross_entropy(place.float(), places)
        return heat_loss(hot.float(), heat) + 5 * off + placed + sum(read)

    def _finish(self) -> None:
        module, store = averaged(self._build(), self.folder), unseen(self.work)
        few = [i for i, row in enumerate(store.rows) if len(row["things"]) < 3]
        few = few[: self.work.count(600)]
        judge = networks.Examiner(module["finder"], module["reader"], {})
        pixels, rows = pixels_of(store, few), [store.rows[i] for i in few]
        asked = [(row["things"], row["place"], row["relation"]) for row in rows]
        shares = judged(asked, judge.see(through(self.vae.cpu(), pixels)))
        direct = judged(asked, judge.see(pixels))
        shares |= {f"{key}, direct": share for key, share in direct.items()}
        console.print(shares)
        weights = {name: w.half().contiguous() for name, w in module.state_dict().items()}
        for path in (self.work.folder / "examiner.safetensors", self.work.judge):
            save_file(weights, path, metadata={"accuracy": json.dumps(shares)})
            path.chmod(0o644)


def cut_out(pixels: Tensor, rows: Sequence[Row], draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut out every visible thing by a box that is a little off, half mirrored; give traits."""
    crops, traits = [], []
    for picture, row in zip(pixels, rows, strict=True):
        for thing in visible(row):
            x0, y0, x1, y1 = thing["box"]
            off = 0.06 * max(x1 - x0, y1 - y0) * torch.randn(4, generator=draw)
            crop = networks.cut(picture, (torch.tensor(thing["box"]) + off).tolist())
            crops.append(crop.flip(-1) if torch.rand((), generator=draw) < 0.5 else crop)
            traits.append([words.index(thing[k]) for k, words in networks.TRAITS.items()])
    return torch.stack(crops), torch.tensor(traits, device=pixels.device)


def unseen(work: Work, *, held_out: bool = False) -> PictureStore:
    """Compose pictures that no training sees; with ``held_out``, of pairs that it leaves out."""
    folder, looks = work.folder / ("held_out" if held_out else "unseen"), work.folder / "looks"
    settings = {"start": UNSEEN, "held_out": held_out, "processes": WORKERS}
    compose_pictures(folder, looks, work.count(1_000 if held_out else 6_000), **settings)
    return PictureStore.open(folder)


def through(vae: AutoencoderKL, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Send pictures through the autoencoder."""
    return in_turn(lambda part: autoencoder.decoded(vae, autoencoder.encoded(vae, part)), pixels)


def answers(
    things: Sequence[Row], place: str, relation: str | None, seen: networks.Seen
) -> dict[str, bool]:
    """Say whether a picture shows what is asked for; "" is not asked for.

    One thing is the picture's clearest. Of two, colours and side count where both nouns are seen.
    """
    if len(things) == 1:
        asked, shown = things[0], seen.things[0]
        right = {key: getattr(shown, key) == asked[key] for key in networks.TRAITS if asked[key]}
        right |= {"place": seen.place == place} if place else {}
        return right | {"one_thing": seen.count == 1}
    known = {thing.noun: thing for thing in reversed(seen.things)}
    if not all(thing["noun"] in known for thing in things):
        return {"both_nouns": False}
    pairs = [(asked, known[asked["noun"]]) for asked in things]
    colours = [shown.main == asked["main"] for asked, shown in pairs if asked["main"]]
    right = {"both_nouns": True} | ({"both_colours": all(colours)} if colours else {})
    first, second = (shown.box[0] + shown.box[2] for _, shown in pairs)
    return right | ({"side": (first < second) == (relation == LEFT)} if relation in SIDES else {})


def judged(asked: Sequence[Asked], seen: Sequence[networks.Seen]) -> dict[str, float]:
    """Return how often each answer is right."""
    table = pd.DataFrame([answers(*a, one) for a, one in zip(asked, seen, strict=True)])
    return table.rename(columns={"main": "colour"}).astype(float).mean().round(4).to_dict()
