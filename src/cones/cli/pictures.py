"""The commands that draw: ``generate``, ``compare`` and ``attend``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import cones
from cones.cli import console, options
from cones.files import alone

AT_ONCE = 4  # pictures drawn between two writes
_Over = partial(Option, rich_help_panel="Draw over a photo, or along one")
Prompts = Annotated[list[str], Argument(help="What to draw: columns.", show_default=False)]
Photos = Annotated[Path | None, Option(help="Photos to show above.")]
Words = Annotated[list[str] | None, Option("--word", help="Word of the prompt; repeat [all].")]


@dataclass(frozen=True)
class Drawing(options.Sampling):
    """How pictures are drawn, and over what."""

    negative_prompt: Annotated[str | None, Option(help="What not to draw.")] = None
    strengths: Annotated[
        list[float] | None,
        Option("--amount", help="How far a concept is shut, 0 to 1; once for each file [1]."),
    ] = None
    image: Annotated[Path | None, _Over(help="Photo to draw over (image-to-image).")] = None
    strength: Annotated[
        float | None, _Over(help="How much of the photo is drawn anew, up to 1 [0.8].")
    ] = None
    control_image: Annotated[
        Path | None, _Over(help="What the --controlnet follows: edges, depth, a pose.")
    ] = None
    controlnet_conditioning_scale: Annotated[
        float | None, _Over(help="How closely it is followed [1].")
    ] = None


def generate(
    *,
    prompt: options.Prompt,
    chosen: options.Chosen,
    output: options.Folder,
    number: options.Number = 4,
    seed: options.Seed = 0,
    drawing: Drawing,
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Draw pictures of a prompt with the neurons of one concept or several shut.

    A picture depends on its seed alone and is named after it; its PNG holds its settings. After
    Ctrl-C the same command draws what is missing. One command at a time draws into a folder.

    **Example:**  cones generate -c cat.safetensors "a V* cat in the snow" -o out/
    """
    from cones.drawing import read_record, save_png

    concepts, how = chosen.load_for(prompt), asdict(drawing)
    job = _job(prompt, concepts, how, loading)
    paths = {s: output / f"{s:04d}.png" for s in range(seed, seed + number)}
    told = f"finished pictures are in {output}"
    with alone(output / ".lock"), console.progress(told) as progress:
        kept = {} if saving.overwrite else paths
        left = paths.keys() - {s for s in kept if read_record(kept[s]) == {**job, "seed": s}}
        saving.require(*(paths[s] for s in left))
        if len(left) < number:
            console.say(f"{number - len(left)} of {number} pictures are there already")
        pipeline = loading.pipeline() if left else None
        cuts = [[*paths][k : k + AT_ONCE] for k in range(0, number, AT_ONCE)]
        for seeds in (seeds for seeds in cuts if left & {*seeds}):  # whole: bits vary by batch
            pictures = cones.generate(pipeline, concepts, prompt, seeds=seeds, **how)
            for each in left & {*seeds}:
                saving.require(paths[each])  # once more: it took long
                save_png(pictures[each - seeds[0]], paths[each], {**job, "seed": each})
            progress("pictures", seeds[-1] - seed + 1, number)
    shown = {**job, "pictures": {each: str(path) for each, path in paths.items()}}
    saving.tell(f"{number} pictures in {output}", shown)


def _job(
    prompt: str,
    concepts: "Sequence[cones.Concept]",
    how: dict[str, object],
    loading: options.Loading,
) -> dict[str, object]:
    """Say all that pictures depend on but their seeds."""
    used = [{"words": each.prompt, "mask": each.mask.digest} for each in concepts]
    job = {"prompt": prompt, **how, "model": "built-in", **loading.given(), "concepts": used}
    return json.loads(json.dumps(job, default=str))


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
    saving: options.Saving,
) -> None:
    """Draw prompts three times from the same noise: untouched, random mask, concept.

    The random mask has the same density in every layer. Only if the last row alone looks like the
    photos has the concept done it.

    **Example:**  cones compare -c cat.safetensors "a V* cat in the snow" -o sheet.png
    """
    from cones.drawing import save_png

    saving.require(output)
    concepts = chosen.load_for(*prompts)
    pipeline = loading.pipeline()
    drawing = {"seeds": list(range(seed, seed + number)), **asdict(sampling)}
    with console.progress() as progress:
        shown = {"photos": photos, "progress": progress, **drawing}
        sheet = cones.compare(pipeline, concepts, prompts, **shown)
    save_png(sheet, output, {"prompts": prompts, **drawing})
    saving.tell(f"look at {output}", {"sheet": str(output)})


def attend(
    *,
    prompt: options.Prompt,
    chosen: options.Chosen,
    output: options.File,
    word: Words = None,
    loading: options.Loading,
    sampling: options.Sampling,
    seed: options.Seed = 0,
    saving: options.Saving,
) -> None:
    """Draw for every word where it looks, untouched and shut (Fig. 2); models with a U-Net only.

    **Example:**  cones attend -c cat.safetensors "a V* cat in the snow" --word cat -o cat.png
    """
    from cones.analysis.attention import attend
    from cones.drawing import save_png, sheet

    saving.require(output)
    concepts, words = chosen.load_for(prompt), word or [*dict.fromkeys(prompt.split())]
    drawing = {"seed": seed, **asdict(sampling)}
    rows = attend(loading.pipeline(), concepts, prompt, words, **drawing)
    shown = sheet(rows, [prompt, *words])
    save_png(shown, output, {"prompt": prompt, **drawing})
    saving.tell(f"look at {output}", {"sheet": str(output)})
