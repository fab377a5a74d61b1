"""The pictures of an evaluation: which prompts, which noise, which files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.bench.plan import UNRELATED, Cell, Plan
from cones.generate import BATCH, sample
from cones.plot import save_picture
from cones.subject import pixels_of

UNRELATED_SEED, TEMPLATE_SEED = 10_000, 20_000  # of the first of these pictures
TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class Sheet:
    """Pictures of one prompt: where they lie and the seed of the first."""

    prompt: str
    paths: Sequence[Path]
    seed: int

    @property
    def done(self) -> bool:
        """Whether all pictures are there."""
        return all(path.exists() for path in self.paths)


def wanted(cell: Cell, plan: Plan, home: Path) -> list[Sheet]:
    """List the pictures that should show the subjects."""
    return [
        Sheet(
            prompt.format(cell.spoken), _files(home, f"{row:02d}", plan.images), 1000 * cell.seed
        )
        for row, prompt in enumerate(plan.prompts)
    ]


def template(cell: Cell, plan: Plan, home: Path) -> list[Sheet]:
    """List pictures of the prompt of training, with the identifier and without (App. C.4)."""
    seed, count = TEMPLATE_SEED + 1000 * cell.seed, max(4, plan.images)
    return [
        Sheet(TEMPLATE.format(cell.spoken), _files(home, "template", count), seed),
        Sheet(TEMPLATE.format(cell.plain), _files(home, "plain", count), seed),
    ]


def unrelated(home: Path, seed: int) -> list[Sheet]:
    """List pictures that should stay as they were."""
    return [
        Sheet(prompt, [home / f"unrelated-{row:02d}.png"], UNRELATED_SEED + 1000 * seed)
        for row, prompt in enumerate(UNRELATED)
    ]


def batches(found: Sequence[Sheet]) -> list[list[Sheet]]:
    """Put sheets together that are drawn at once, the same ones whatever is there already."""
    together: list[list[Sheet]] = []
    room = 0
    for sheet in found:
        if room < len(sheet.paths):
            together.append([])
            room = BATCH
        together[-1].append(sheet)
        room -= len(sheet.paths)
    return together


def draw(pipeline: Any, together: Sequence[Sheet], plan: Plan) -> None:
    """Draw a batch whole: a picture's last bits depend on the others, and a resumed one's too."""
    made = [
        (path, {"prompt": sheet.prompt, "seed": sheet.seed + number})
        for sheet in together
        for number, path in enumerate(sheet.paths)
    ]
    images = sample(
        pipeline,
        [settings["prompt"] for _, settings in made],
        seeds=[settings["seed"] for _, settings in made],
        steps=plan.steps,
        guidance=plan.guidance,
    )
    for (path, settings), image in zip(made, images, strict=True):
        save_picture(image, path, {**settings, "steps": plan.steps, "guidance": plan.guidance})


def pixels(*sheets: Sheet) -> Float[Tensor, "n 3 h w"]:
    """Read the pictures, RGB in [0, 1]."""
    images = []
    for path in (path for sheet in sheets for path in sheet.paths):
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    return pixels_of(images)


def _files(home: Path, name: str, count: int) -> list[Path]:
    return [home / f"{name}-{number:02d}.png" for number in range(count)]
