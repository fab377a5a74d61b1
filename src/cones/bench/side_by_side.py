"""Methods side by side, the best few of many pictures each (Fig. 7).

The paper chose the best two of twenty by eye. Here a rule chooses, the same for every method and
control: the highest image alignment by the judge among the pictures whose text alignment is not
below the median of their twenty. Choosing by likeness makes every method look its best.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.bench.cells import Notify
from cones.bench.evaluate import Evaluation
from cones.bench.plan import Cell, Plan
from cones.bench.scores import Encoders
from cones.bench.sheets import pixels, wanted
from cones.find import Step
from cones.metrics import ImageAlignment, TextAlignment
from cones.plot import Row
from cones.subject import Subject


def best_pictures(
    pipeline: Any,
    folder: Path | str,
    plan: Plan,
    encoders: Encoders,
    *,
    work: Path | str,
    keep: int = 2,
    on_progress: Notify | None = None,
) -> list[Row]:
    """Draw many pictures of one prompt by every method, and keep the best few.

    Args:
        pipeline: Text-to-image pipeline; as before afterwards.
        folder: Holds subject folders.
        plan: One prompt; ``images`` is how many are drawn.
        encoders: Who judges.
        work: Keeps what is done; what ``cones evaluate`` learnt there is used again.
        keep: Pictures of every method and group.
        on_progress: Called before every method.

    Returns:
        A row of photos and one per method; along it, ``keep`` pictures of every group.
    """
    evaluation = Evaluation(pipeline, folder, replace(plan, prompts=plan.prompts[:1]), work)
    notify = on_progress or (lambda step: None)
    photos = [
        _first(evaluation.photos[name].subject(evaluation.size))
        for group in plan.groups
        for name in spread(group, keep)
    ]
    rows: dict[str, list[Image.Image]] = {}
    for number, cell in enumerate(evaluation.cells):
        notify(Step("methods", number, len(evaluation.cells)))
        rows.setdefault(cell.method, []).extend(_best(evaluation, cell, encoders, keep))
    notify(Step("methods", len(evaluation.cells), len(evaluation.cells)))
    return [Row("photos", photos), *(Row(name, images) for name, images in rows.items())]


def spread(names: Sequence[str], count: int) -> list[str]:
    """Give ``count`` of the names, from the first on and round again."""
    return [names[number % len(names)] for number in range(count)]


def best(images: Float[Tensor, " n"], texts: Float[Tensor, " n"], keep: int) -> list[int]:
    """Choose pictures by image alignment among those of at least median text alignment."""
    listening = torch.where(texts >= texts.median(), images, -torch.inf)
    return listening.topk(keep).indices.tolist()


def _first(subject: Subject) -> Image.Image:
    return Image.fromarray((255 * subject.images[0]).round().byte().permute(1, 2, 0).numpy())


def _best(evaluation: Evaluation, cell: Cell, encoders: Encoders, keep: int) -> list[Image.Image]:
    (sheet,) = wanted(cell, evaluation.plan, evaluation.home(cell))
    evaluation.draw([sheet], evaluation.fits.of(cell))
    found = pixels(sheet)
    references = [each.subject(evaluation.size).images for each in cell.group]
    said = evaluation.plan.prompts[0].format(cell.plain)
    chosen = best(
        ImageAlignment(encoders.judge)(found, references),
        TextAlignment(encoders.clip)(found, [said] * len(found)),
        keep,
    )
    return [Image.open(sheet.paths[number]).convert("RGB") for number in chosen]
