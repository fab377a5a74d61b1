"""Draw pictures with concepts, compare them with controls, and write down how they were drawn.

Picture ``i`` of a prompt depends on its seed alone, so the untouched model, a concept and a random
mask can be compared noise for noise. Files carry their settings: our own JSON, and the text that
A1111 and its relatives read.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cones.concept import Concept, Json
from cones.errors import PromptError
from cones.files import write_atomic
from cones.models import Pipeline
from cones.models.applied import Amounts, applied
from cones.models.prompts import check_prompt
from cones.models.protocol import Progress
from cones.models.sampling import Options, sample

CONTROLS = {"untouched": "untouched model", "random": "random mask, same density per layer"}
CONCEPT, PHOTOS = "concept neurons shut", "photos"
KEY = "cones"  # of our JSON in a PNG


def generate(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    prompt: str | Sequence[str],
    *,
    strengths: Amounts | None = None,
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
    if not prompts or not seeds:
        raise PromptError(
            f"found {len(prompts)} prompts and {len(seeds)} seeds; expected at least one of each; "
            "give them"
        )
    with applied(pipeline, found, strengths=strengths):
        identifiers = [word.identifier for concept in found for word in concept.words]
        for said in [*prompts, options.get("negative_prompt") or ""]:
            check_prompt(pipeline, said, identifiers)
        every = [(said, seed) for said in prompts for seed in seeds]
        said, drawn = [prompt for prompt, _ in every], [seed for _, seed in every]
        return sample(pipeline, said, seeds=drawn, progress=progress, **options)


@dataclass(frozen=True)
class Comparison:
    """The same prompts and seeds, drawn with controls and with a concept.

    Attributes:
        rows: What was done -> its pictures, prompt by prompt.
        prompts: One for each picture of a row.
    """

    rows: Mapping[str, Sequence[Image.Image]]
    prompts: Sequence[str]

    def sheet(self, photos: Sequence[Image.Image] | None = None) -> Image.Image:
        """Lay all out as one picture, the photos on top; only the last row may look like them."""
        return sheet({**({PHOTOS: photos} if photos else {}), **self.rows}, self.prompts)


def compare(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    prompts: str | Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    controls: Sequence[str] = ("untouched", "random"),
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Draw with controls, then with the concepts, noise for noise; see :func:`generate`.

    ``untouched`` knows the words and shuts nothing; ``random`` shuts as many weights of every
    layer at random. The row's name is the progress stage.

    Raises:
        PromptError: Unknown control.
    """
    found = [concepts] if isinstance(concepts, Concept) else list(concepts)
    said = [prompts] if isinstance(prompts, str) else list(prompts)
    if unknown := set(controls) - set(CONTROLS):
        raise PromptError(
            f"found control {min(unknown)!r}; expected {' or '.join(CONTROLS)}; choose among these"
        )
    draw = torch.Generator().manual_seed(0)
    cases = {
        "untouched": (found, [0.0] * len(found)),
        "random": ([each.using(each.mask.random_like(draw)) for each in found], None),
    }
    rows = {CONTROLS[name]: case for name, case in cases.items() if name in controls}
    drawn = {}
    for label, (shut, strengths) in {**rows, CONCEPT: (found, None)}.items():
        told = _renamed(progress, label)
        drawn[label] = generate(
            pipeline, shut, said, strengths=strengths, seeds=seeds, progress=told, **options
        )
    return Comparison(drawn, [each for each in said for _ in seeds])


def _renamed(progress: Progress | None, row: str) -> Progress | None:
    return None if progress is None else lambda _, *at: progress(row, *at)


def sheet(
    rows: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] = (), *, title: str = ""
) -> Image.Image:
    """Lay rows of pictures out under their names, with captions below the columns."""
    side = max(96, *(image.width for images in rows.values() for image in images))
    height, top, step = max(11, side // 16), 8, side + 8
    font, line = ImageFont.load_default(height), height * 3 // 2
    texts = [_wrapped(caption, font.getlength, side) for caption in captions]
    end = line * (len(rows) + bool(title) + max([t.count("\n") + 1 for t in texts], default=0))
    size = (step * max(map(len, rows.values())) + 8, end + len(rows) * step + 16)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    if title:
        pen.text((8, top), title, "black", font)
        top += line
    for name, images in rows.items():
        pen.text((8, top), name, "black", font)
        for column, image in enumerate(images):
            page.paste(image.resize((side, side)), (8 + column * step, top + line))
        top += line + step
    for column, text in enumerate(texts):
        pen.multiline_text((8 + column * step, top), text, "black", font)
    return page


def _wrapped(text: str, length: Callable[[str], float], width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines[-1:] = [longer] if length(longer) <= width or not lines[-1] else [lines[-1], word]
    return "\n".join(lines)


def png_bytes(image: Image.Image, record: Json) -> bytes:
    """Encode a picture with how it was drawn: ``record`` as JSON, and A1111's ``parameters``.

    Of the record ``prompt``, ``negative_prompt``, ``num_inference_steps``, ``guidance_scale``,
    ``seed`` and ``model`` are told to other programs.
    """
    names = {"num_inference_steps": "Steps", "guidance_scale": "CFG scale", "seed": "Seed"}
    told = [f"{names[key]}: {record[key]}" for key in names if record.get(key) is not None]
    told += [f"Size: {image.width}x{image.height}", f"Model: {record.get('model', 'unnamed')}"]
    unwanted = record.get("negative_prompt")
    lines = [
        str(record.get("prompt", "")),
        *([f"Negative prompt: {unwanted}"] if unwanted else []),
    ]
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "\n".join([*lines, ", ".join(told)]))
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
