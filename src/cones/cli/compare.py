"""``cones compare``: concepts beside the untouched model and a random mask."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cones.cli import console, options, outputs

Prompts = Annotated[
    list[str], Argument(help="What to draw; each is a column.", show_default=False)
]
Photos = Annotated[Path | None, Option(help="Photos to show above.")]


def compare(
    *,
    prompts: Prompts,
    chosen: options.Chosen,
    output: options.File,
    photos: Photos = None,
    number: options.Number = 1,
    seed: options.Seed = 0,
    sampling: options.Sampling,
    loading: options.Loading,
    saving: outputs.Saving,
) -> None:
    """Draw prompts three times from the same noise: untouched, random mask, concept.

    The random mask has the same density in every layer. Only if the last row alone looks like the
    photos has the concept done it.

    **Example:**  cones compare -c cat.safetensors "a V* cat in the snow" -o sheet.png
    """
    import cones
    from cones.demo import pictures
    from cones.drawing import save_png
    from cones.models import model_for
    from cones.subject import read_pixels

    saving.require_file(output)
    concepts = chosen.load(*prompts)
    seeds = list(range(seed, seed + number))
    pipeline = loading.pipeline(concepts)
    size = model_for(pipeline).size
    above = None if photos is None else pictures(read_pixels(photos, size=size))
    with console.progress() as progress:
        drawing = {"seeds": seeds, "progress": progress, **asdict(sampling)}
        found = cones.compare(pipeline, concepts, prompts, **drawing)
    save_png(found.sheet(above), output, {"prompts": prompts, "seeds": seeds, **asdict(sampling)})
    saving.tell(f"look at {output}", {"sheet": str(output)})
