"""The commands that draw: ``generate``, ``compare``, ``attend`` and ``demo``."""

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cones.cli import console, options
from cones.cli.find import Searching

AT_ONCE = 4  # pictures drawn between two writes
_Over = partial(Option, rich_help_panel="Draw over a photo")
Prompts = Annotated[list[str], Argument(help="What to draw: columns.", show_default=False)]
Amounts = Annotated[
    list[float] | None, Option("--amount", help="How far each concept is shut, 0 to 1 [1].")
]
Negative = Annotated[str | None, Option(help="What not to draw.")]
Image = Annotated[Path | None, _Over(help="Photo to draw over (image-to-image).")]
Inpaint = Annotated[Path | None, _Over(help="Draw only where this mask is white.")]
Strength = Annotated[float, _Over(help="How much of the photo is drawn anew, up to 1.")]
Photos = Annotated[Path | None, Option(help="Photos to show above.")]
Words = Annotated[list[str] | None, Option("--word", help="Word of the prompt; repeat [all].")]
Key = Annotated[str, Argument(help="Which of the subjects that ship with the package.")]


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
    image: Image = None,
    mask_image: Inpaint = None,
    strength: Strength = 0.8,
    loading: options.Loading,
    saving: options.Saving,
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
    options.require_folder(output)
    with console.progress(f"finished pictures are in {output}") as progress:
        pipeline = loading.pipeline(concepts) if left else None
        for seeds in (left[k : k + AT_ONCE] for k in range(0, len(left), AT_ONCE)):
            pictures = cones.generate(pipeline, concepts, prompt, seeds=seeds, **drawing)
            for each, picture in zip(seeds, pictures, strict=True):
                save_png(picture, paths[each], {**job, "seed": each})
            progress("pictures", left.index(seeds[-1]) + 1, len(left))
    shown = {**job, "pictures": {each: str(path) for each, path in paths.items()}}
    saving.tell(f"{number} pictures in {output}", shown)


def _missing(paths: dict[int, Path], job: dict[str, object], saving: options.Saving) -> list[int]:
    """List the seeds still to be drawn; refuse to replace pictures of another job."""
    from cones.drawing import read_record

    kept = {s for s, path in paths.items() if read_record(path) == {**job, "seed": s}}
    left = [each for each in paths if saving.overwrite or each not in kept]
    saving.require_free(*(paths[each] for each in left))
    if len(left) < len(paths):
        console.say(f"{len(paths) - len(left)} of {len(paths)} pictures are there already")
    return left


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
    """Draw for every word where it looks, untouched and with the concept neurons shut (Fig. 2).

    **Example:**  cones attend -c cat.safetensors "a V* cat in the snow" --word cat -o cat.png
    """
    from cones.analysis.attention import attend
    from cones.analysis.plots import attention_rows
    from cones.drawing import save_png, sheet

    saving.require_file(output)
    concepts, words = chosen.load(prompt), word or list(dict.fromkeys(prompt.split()))
    drawing = {"seed": seed, **asdict(sampling)}
    looks = attend(loading.pipeline(concepts), concepts, prompt, words, **drawing)
    shown = sheet(attention_rows(looks), ["the picture", *words], title=prompt)
    save_png(shown, output, {"prompt": prompt, **drawing})
    saving.tell(f"look at {output}", {"sheet": str(output)})


def demo(
    *,
    subject: Key = "striped_cat",
    output: options.Folder = Path("cones-demo"),
    searching: Searching,
    loading: options.Loading,
    saving: options.Saving,
) -> None:
    """Show the whole job: find two subjects from photos, and draw them in new places.

    Writes two concept files and sheet.png: photos, the untouched model, a random mask, the
    concept, and both subjects together.

    **Example:**  cones demo dotted_cup
    """
    from cones import demo as work

    settings = searching.settings()
    saving.require_file(output / work.SHEET)
    pipeline = loading.pipeline()
    shown = work.subjects(pipeline, subject)
    with console.progress(f"what was found is in {output}") as progress:
        found = work.demo(pipeline, shown, output, settings=settings, progress=progress)
    for path in found:
        shutil.rmtree(f"{path}.part", ignore_errors=True)
    sheet, files = str(output / work.SHEET), [str(path) for path in found]
    verdicts = {str(path): c.certificate.get("verdict") for path, c in found.items()}
    told = "\n".join(f"{path}: {verdict}" for path, verdict in verdicts.items())
    saving.tell(f"{told}\nlook at {sheet}", {"sheet": sheet, "concepts": verdicts})
    if not saving.as_json:
        prompt = f"{shown[0].prompt} on a beach"
        console.suggest("cones", "generate", "-c", files[0], prompt, *loading.words, "-o", "out")
