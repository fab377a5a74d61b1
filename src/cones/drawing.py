"""Draw pictures with concepts, compare them with controls, and write down how they were drawn.

Picture ``i`` of a prompt depends on its seed alone, so the untouched model, a concept and a random
mask can be compared noise for noise. Files carry their settings: our own JSON, and the text that
A1111 and its relatives read.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin, UnidentifiedImageError

from cones.concept import Concept, Json
from cones.errors import PromptError
from cones.files import write_atomic
from cones.models import Pipeline
from cones.models.applied import applied
from cones.models.prompts import check_prompt
from cones.models.protocol import Progress
from cones.models.sampling import sample
from cones.subject import Photo

CONTROLS = {"untouched": "untouched model", "random": "random mask, same density per layer"}
CONCEPT, PHOTOS = "concept neurons shut", "photos"
KEY = "cones"  # of our JSON in a PNG


def generate(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    prompt: str | Sequence[str],
    *,
    strengths: Sequence[float] | None = None,
    seeds: Sequence[int] = range(4),
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    image: Photo | None = None,
    mask_image: Photo | None = None,
    strength: float = 0.8,
    progress: Progress | None = None,
) -> list[Image.Image]:
    """Draw every prompt with every seed, the concepts' neurons shut (Sec. 3.2).

    Args:
        pipeline: With the base model; its weights and tokenizers are as before afterwards.
        concepts: One, several or none; none draws with the untouched model.
        prompt: One or several, with the concepts' identifiers in them.
        strengths: One per concept: 1 shuts, less goes only part of the way there.
        seeds: One picture of every prompt for each.
        num_inference_steps: By default what the model is made for; likewise the guidance.
        guidance_scale: Of classifier-free guidance.
        negative_prompt: What to stay away from.
        image: Photo to draw over, with diffusers' ``strength``.
        mask_image: Of the same size; only where it is white the photo is drawn over.
        strength: Share of the steps that are made over ``image``.
        progress: Called as ``progress("draw", done, total)``.

    Returns:
        The pictures, prompt by prompt.

    Raises:
        PromptError: An identifier in a prompt would not be read.
        ConesError: Of the part concerned; the model is as before.
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
        for said in [*prompts, *([negative_prompt] if negative_prompt else [])]:
            check_prompt(pipeline, said, identifiers)
        return sample(
            pipeline,
            [said for said in prompts for _ in seeds],
            seeds=[seed for _ in prompts for seed in seeds],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            image=image,
            mask_image=mask_image,
            strength=strength,
            progress=progress,
        )


@dataclass(frozen=True)
class Comparison:
    """The same prompts and seeds, drawn with a concept and with controls.

    Attributes:
        rows: What was done -> its pictures, prompt by prompt.
        prompts: One for each picture of a row.
    """

    rows: Mapping[str, Sequence[Image.Image]]
    prompts: Sequence[str]

    def sheet(self, photos: Sequence[Image.Image] | None = None) -> Image.Image:
        """Lay all out as one picture, the photos on top; only the last row may look like them."""
        first = {PHOTOS: photos} if photos else {}
        return sheet({**first, **self.rows}, self.prompts)


def compare(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept],
    prompts: str | Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    controls: Sequence[str] = ("untouched", "random"),
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Draw the same prompts and seeds with the controls, then with the concepts.

    Args:
        pipeline: As in :func:`generate`, like the arguments that are not named here.
        concepts: One or several.
        prompts: One or several.
        seeds: One picture of every prompt for each.
        controls: ``untouched`` (the words are known, nothing is shut) and ``random`` (as many
            weights of every layer are shut at random).
        num_inference_steps: By default what the model is made for; likewise the guidance.
        guidance_scale: Of classifier-free guidance.
        progress: Called as ``progress(row, done, total)``.

    Raises:
        PromptError: Unknown control.
    """
    found = [concepts] if isinstance(concepts, Concept) else list(concepts)
    said = [prompts] if isinstance(prompts, str) else list(prompts)
    unknown = set(controls) - set(CONTROLS)
    if unknown:
        raise PromptError(
            f"found control {min(unknown)!r}; expected {' or '.join(CONTROLS)}; choose among these"
        )
    draw = torch.Generator().manual_seed(0)
    shuffled = [concept.using(concept.mask.random_like(draw)) for concept in found]
    cases = {"untouched": (found, [0.0] * len(found)), "random": (shuffled, None)}
    wanted = {CONTROLS[name]: cases[name] for name in CONTROLS if name in controls}
    rows = {}
    for label, (shut, strengths) in {**wanted, CONCEPT: (found, None)}.items():
        rows[label] = generate(
            pipeline,
            shut,
            said,
            strengths=strengths,
            seeds=seeds,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            progress=_named(progress, label),
        )
    return Comparison(rows, [each for each in said for _ in seeds])


def _named(progress: Progress | None, label: str) -> Progress | None:
    return None if progress is None else lambda stage, done, total: progress(label, done, total)


def sheet(
    rows: Mapping[str, Sequence[Image.Image]], captions: Sequence[str] = (), *, title: str = ""
) -> Image.Image:
    """Lay rows of pictures out with their names above them, captions below each picture."""
    side = max(image.width for images in rows.values() for image in images)
    side, font = max(side, 96), ImageFont.load_default(max(11, side // 16))
    line = int(font.size * 1.5)
    texts = [_wrapped(caption, font, side) for caption in captions]
    below = line * max((len(text) for text in texts), default=0)
    width = (side + 8) * max(map(len, rows.values())) + 8
    top = 2 * line if title else 8
    page = Image.new("RGB", (width, top + (side + line + 16) * len(rows) + below + 8), "white")
    pen = ImageDraw.Draw(page)
    pen.text((8, 8), title, "black", font)
    for row, (name, images) in enumerate(rows.items()):
        y = top + row * (side + line + 16)
        pen.text((8, y), name, "black", font)
        for column, image in enumerate(images):
            page.paste(image.resize((side, side)), (8 + column * (side + 8), y + line + 4))
    for column, text in enumerate(texts):
        place = (8 + column * (side + 8), page.height - below - 4)
        pen.multiline_text(place, "\n".join(text), "black", font)
    return page


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def save_png(image: Image.Image, path: str | Path, record: Json) -> None:
    """Write a picture with how it was drawn: ``record`` as JSON, and A1111's ``parameters``.

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
    write_atomic(Path(path), data.getvalue())


def read_record(path: str | Path) -> Json | None:
    """Read back how a picture was drawn; None if it is none of ours."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            record = json.loads(image.text[KEY])
    except (OSError, UnidentifiedImageError, KeyError, ValueError):
        return None
    return record if isinstance(record, dict) else None
