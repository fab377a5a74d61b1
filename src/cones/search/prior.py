"""Pictures that the untouched model draws: the prior of a search, and a certificate's controls.

They are kept as PNGs under names that say all they depend on, so that a second search or an
interrupted one finds them again. How to draw is handed in; nothing here knows a pipeline.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.files import replace_when_done
from cones.search.loss import seed_of
from cones.search.resume import Progress, silent
from cones.search.spread import place, spread
from cones.subject import read_pixels, with_article

SCENES = ("{}", "{} in a street", "{} in a meadow", "{} in a lobby", "{} on a plain background")
OTHERS = ("dog", "chair", "flower", "car", "woman", "barrel", "lamp", "cat")
UNSEEN = ("teapot", "hat", "rabbit", "ball", "cup", "apple")  # for certificates alone
_BATCH = 8
Sample: TypeAlias = Callable[..., Sequence[Image.Image]]  # (prompts, seeds=) -> pictures


def prior_prompts(noun: str, count: int, *, plain: bool = False) -> list[str]:
    """Say what the prior pictures of a noun show.

    Half is the noun, alone and in scenes, and half is other things, so that the model stays as it
    is there too. With ``plain`` all is the noun alone, as in the paper (Eq. 3).
    """
    scenes = [scene.format(with_article(noun)) for scene in SCENES[: 1 if plain else None]]
    others = scenes if plain else [with_article(each) for each in OTHERS if each != noun]
    halves = [[half[k % len(half)] for k in range(count)] for half in (scenes, others)]
    return [each for pair in zip(*halves, strict=True) for each in pair][:count]


def unseen_prompts(noun: str, count: int) -> list[str]:
    """Name things that are not the noun and that no search looks at."""
    others = [with_article(each) for each in UNSEEN if each != noun]
    return [others[k % len(others)] for k in range(count)]


def pictures(
    sample: Sample,
    prompts: Sequence[str],
    *,
    seed: int,
    size: int,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Float[Tensor, "n 3 size size"]:
    """Draw a picture of every prompt, or find it in ``folder``; RGB in [0, 1].

    The k-th picture of a prompt depends on ``seed`` and k, whatever other prompts there are. The
    name of ``folder`` has to stand for the model and how it samples.
    """
    count: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        count[prompt] += 1
        seeds.append(seed_of(prompt, seed, count[prompt]))
    paths = [folder / f"{each:016x}.png" for each in seeds] if folder else []
    found: dict[int, Path | Image.Image] = {k: p for k, p in enumerate(paths) if p.exists()}
    cuts = [[*range(len(prompts))][k : k + _BATCH] for k in range(0, len(prompts), _BATCH)]
    batches = [cut for cut in cuts if not {*cut} <= found.keys()]  # whole: bits vary by batch

    def draw(batch: list[int]) -> tuple[Tensor, ...]:
        drawn = sample([prompts[k] for k in batch], seeds=[seeds[k] for k in batch])
        return tuple(torch.from_numpy(np.array(image)) for image in drawn)

    drawn = spread(partial(draw, batch) for batch in batches)
    for batch, images in zip(batches, drawn, strict=True):
        for k, image in zip(batch, images, strict=True):
            if k in found:
                continue
            found[k] = whole = Image.fromarray(image.cpu().numpy())
            if folder is not None and place()[0] == 0:
                with replace_when_done(paths[k]) as path:
                    whole.save(path)
        progress("pictures", len(found), len(prompts), "")
    return torch.cat([read_pixels([found[k]], size=size) for k in range(len(prompts))])
