"""``cones generate``: pictures of a prompt with concepts."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from cones.cli import console, options, outputs

AT_ONCE = 4  # pictures drawn between two writes
_Over = partial(Option, rich_help_panel="Draw over a photo")
Amounts = Annotated[
    list[float] | None,
    Option("--amount", help="How far a concept is shut, 0 to 1 [1]; once for each, in order."),
]
Negative = Annotated[str | None, Option(help="What not to draw.")]
Photo = Annotated[Path | None, _Over(help="Photo to draw over (image-to-image).")]
Inpaint = Annotated[Path | None, _Over(help="Draw only where this mask is white.")]
Strength = Annotated[float, _Over(help="How much of the photo is drawn anew, up to 1.")]


def generate(
    *,
    prompt: options.Prompt,
    chosen: options.Chosen,
    output: options.Folder,
    amount: Amounts = None,
    number: options.Number = 4,
    seed: options.Seed = 0,
    sampling: options.Sampling,
    negative_prompt: Negative = None,
    image: Photo = None,
    mask_image: Inpaint = None,
    strength: Strength = 0.8,
    loading: options.Loading,
    saving: outputs.Saving,
) -> None:
    """Draw pictures of a prompt with the neurons of one concept or several shut.

    A picture depends on its seed alone and is named after it; its PNG holds its settings. After
    Ctrl-C the same command draws what is missing.

    **Example:**  cones generate -c cat.safetensors "a V* cat in the snow" -o out/
    """
    import cones
    from cones.drawing import save_png

    drawing = {**asdict(sampling), "strengths": amount, "strength": strength}
    drawing |= {"negative_prompt": negative_prompt, "image": image, "mask_image": mask_image}
    concepts = chosen.load(prompt)
    used = [{"words": c.prompt, "mask": c.mask.digest} for c in concepts]
    job = {"prompt": prompt, **drawing, "model": loading.model or "built-in", "concepts": used}
    job = json.loads(json.dumps(job, default=str))
    paths = {s: output / f"{s:04d}.png" for s in range(seed, seed + number)}
    left = _missing(paths, job, saving)
    outputs.require_folder(output)
    with console.resumable(f"finished pictures are in {output}"), console.progress() as progress:
        pipeline = loading.pipeline(concepts)
        for seeds in (left[k : k + AT_ONCE] for k in range(0, len(left), AT_ONCE)):
            pictures = cones.generate(pipeline, concepts, prompt, seeds=seeds, **drawing)
            for each, picture in zip(seeds, pictures, strict=True):
                save_png(picture, paths[each], {**job, "seed": each})
            progress("pictures", left.index(seeds[-1]) + 1, len(left))
    shown = {**job, "pictures": {each: str(path) for each, path in paths.items()}}
    saving.tell(f"{number} pictures in {output}", shown)


def _missing(
    paths: Mapping[int, Path], job: dict[str, object], saving: outputs.Saving
) -> list[int]:
    """List the seeds still to be drawn; refuse to replace pictures of another job."""
    from cones.drawing import read_record

    kept = {s for s, path in paths.items() if read_record(path) == {**job, "seed": s}}
    left = [each for each in paths if saving.overwrite or each not in kept]
    saving.require_free(paths[each] for each in left)
    if len(left) < len(paths):
        console.say(f"{len(paths) - len(left)} of {len(paths)} pictures are there already")
    return left
