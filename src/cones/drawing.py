"""Draw pictures with concepts, compare them with controls, and write down how they were drawn.

Picture ``i`` of a prompt depends on its seed alone, so the untouched model, a concept and a random
mask can be compared noise for noise. Files carry their settings: our own JSON, and the text that
A1111 and its relatives read.
"""

import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import torch
from diffusers.utils.pil_utils import numpy_to_pil
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cones.concept import Concept, Json
from cones.files import write_atomic
from cones.models import Pipeline, model_for
from cones.models.applied import applied
from cones.models.prompts import check_prompt
from cones.models.protocol import Progress
from cones.models.sampling import Options, sample
from cones.subject import Source, read_pixels

PHOTOS, UNTOUCHED = "photos", "untouched model"
RANDOM, CONCEPT = "random mask, same density per layer", "concept neurons shut"
KEY = "cones"  # of our JSON in a PNG


def generate(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    prompt: str | Sequence[str],
    *,
    strengths: Sequence[float] | None = None,
    seeds: Sequence[int] = range(4),
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> list[Image.Image]:
    """Draw every prompt with every seed, the concepts' neurons shut (Sec. 3.2).

    Without concepts the untouched model draws. ``strengths`` are one per concept: 1 shuts, less
    goes only part of the way there; ``strength`` is that of image-to-image. For the other options
    see :class:`cones.models.sampling.Options`. Afterwards the pipeline is as before, bit for bit.

    Returns:
        The pictures, prompt by prompt.

    Raises:
        PromptError: An identifier in a prompt would not be read.
        ConesError: Of the part concerned.
    """
    found = [concepts] if isinstance(concepts, Concept) else list(concepts)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    with applied(pipeline, found, strengths=strengths):
        identifiers = [word.identifier for concept in found for word in concept.words]
        for said in [*prompts, options.get("negative_prompt") or ""]:
            check_prompt(pipeline, said, identifiers)
        each = [said for said in prompts for _ in seeds]
        drawn = [*seeds] * len(prompts)
        return sample(pipeline, each, seeds=drawn, progress=progress, **options)


def compare(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    prompts: str | Sequence[str],
    *,
    photos: Source | None = None,
    seeds: Sequence[int] = (0,),
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Image.Image:
    """Draw with two controls, then with the concepts, noise for noise, and lay all out.

    The untouched model knows the words and nothing is shut; the random mask shuts as many weights
    of every layer. Only if the last row alone looks like the ``photos``, which stand on top, has
    the concept done it. ``options`` are those of :func:`generate`; rows are progress stages.
    """
    found = [concepts] if isinstance(concepts, Concept) else list(concepts)
    said = [prompts] if isinstance(prompts, str) else list(prompts)
    rows: dict[str, Sequence[Image.Image]] = {}
    if photos is not None:
        pixels = read_pixels(photos, size=model_for(pipeline).size)
        rows[PHOTOS] = numpy_to_pil(pixels.permute(0, 2, 3, 1).numpy())
    draw = torch.Generator().manual_seed(0)
    random = [each.using(each.mask.random_like(draw)) for each in found]
    cases = {UNTOUCHED: (found, 0.0), RANDOM: (random, 1.0), CONCEPT: (found, 1.0)}
    for row, (shut, amount) in cases.items():
        told = progress and (lambda _, *at, row=row: progress(row, *at))
        drawing = {"strengths": [amount] * len(found), "seeds": seeds, "progress": told, **options}
        rows[row] = generate(pipeline, shut, said, **drawing)
    return sheet(rows, [each for each in said for _ in seeds])


def sheet(rows: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] = ()) -> Image.Image:
    """Lay rows of pictures out under their names, with captions below the columns."""
    side = max(96, *(image.width for images in rows.values() for image in images))
    height, top, step = max(11, side // 16), 8, side + 8
    font, line = ImageFont.load_default(height), height * 3 // 2
    texts = [textwrap.fill(caption, width=int(1.9 * side / height)) for caption in captions]
    end = line * (len(rows) + max([text.count("\n") + 1 for text in texts], default=0))
    size = (step * max(map(len, rows.values())) + 8, end + len(rows) * step + 16)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for name, images in rows.items():
        pen.text((8, top), name, "black", font)
        for column, image in enumerate(images):
            page.paste(image.resize((side, side)), (8 + column * step, top + line))
        top += line + step
    for column, text in enumerate(texts):
        pen.multiline_text((8 + column * step, top), text, "black", font)
    return page


def stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    """Lay one sheet under another."""
    page = Image.new("RGB", (max(above.width, below.width), above.height + below.height), "white")
    page.paste(above, (0, 0))
    page.paste(below, (0, above.height))
    return page


def png_bytes(image: Image.Image, record: Json) -> bytes:
    """Encode a picture with how it was drawn: ``record`` as JSON, and A1111's ``parameters``.

    Of the record ``prompt``, ``negative_prompt``, ``num_inference_steps``, ``guidance_scale``,
    ``seed`` and ``model`` are told to other programs.
    """
    names = {"num_inference_steps": "Steps", "guidance_scale": "CFG scale", "seed": "Seed"}
    told = [f"{names[key]}: {record[key]}" for key in names if record.get(key) is not None]
    told += [f"Size: {image.width}x{image.height}", f"Model: {record.get('model', 'unnamed')}"]
    lines = [str(record.get("prompt", "")), ", ".join(told)]
    if record.get("negative_prompt"):
        lines.insert(1, f"Negative prompt: {record['negative_prompt']}")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "\n".join(lines))
    info.add_itxt(KEY, json.dumps(record, ensure_ascii=False))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=info)
    return data.getvalue()


def save_png(image: Image.Image, path: str | Path, record: Json) -> None:
    """Write :func:`png_bytes` to a file, whole or not at all."""
    write_atomic(Path(path), png_bytes(image, record))


def read_record(path: str | Path) -> Json | None:
    """Read back how a picture was drawn; None if it is none of ours."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            record = json.loads(image.info[KEY])
    except (OSError, KeyError, ValueError):
        return None
    return record if isinstance(record, dict) else None
