"""Draw pictures with concepts, compare them with controls, and write down how they were drawn.

Picture ``i`` of a prompt depends on its seed alone, so the untouched model, a concept and a random
mask can be compared noise for noise. Files carry their settings: our own JSON, and the text that
A1111 and its relatives read.
"""

import io
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Unpack

import torch
from diffusers.utils.pil_utils import numpy_to_pil
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from cones.concept import Concept, Json, Word, told_apart, with_strengths
from cones.errors import PromptError
from cones.files import write_atomic
from cones.intervention import shut_each
from cones.mask import Mask
from cones.models import Pipeline, model_for
from cones.models.applied import applied
from cones.models.base import Progress
from cones.models.prompts import check_prompt, parts
from cones.models.sampling import Options, at_once, sample
from cones.subject import Source, read_pixels

PHOTOS, UNTOUCHED = "photos", "untouched model"
RANDOM, CONCEPT = "random mask, same density per layer", "concept neurons shut"
KEY = "cones"  # of our JSON in a PNG


@dataclass(frozen=True, eq=False)
class Request:
    """One picture: what to draw, with which concepts, how far each is shut, and the seed."""

    prompt: str
    concepts: Concept | Sequence[Concept] = ()
    strengths: Sequence[float] | None = None
    seed: int = 0

    @cached_property
    def pairs(self) -> list[tuple[Concept, float]]:
        """Pair every concept with its strength."""
        return with_strengths(self.concepts, self.strengths)


def generate(
    pipeline: Pipeline,
    concepts: Concept | Sequence[Concept] | Sequence[Request],
    prompt: str | Sequence[str] | None = None,
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
    Requests in the place of concepts, without a prompt, are drawn in common batches, each with its
    own concepts alone, whatever the others call theirs. Pictures come prompt by prompt.

    Raises:
        PromptError: An identifier in a prompt would not be read.
        ConesError: Of the part concerned.
    """
    given = [concepts] if isinstance(concepts, Concept) else list(concepts)
    found = [each for each in given if isinstance(each, Concept)]
    requests = [each for each in given if isinstance(each, Request)]
    if found if prompt is None else requests:
        raise PromptError(
            "found concepts without a prompt, or requests with one; expected a prompt for "
            "concepts, and none for requests, which have their own; change it"
        )
    if prompt is None:
        return _together(pipeline, requests, progress, options)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    with applied(pipeline, found, strengths=strengths):
        identifiers = [word.identifier for concept in found for word in concept.words]
        for said in [*prompts, options.get("negative_prompt") or ""]:
            check_prompt(pipeline, said, identifiers)
        each, drawn = [said for said in prompts for _ in seeds], [*seeds] * len(prompts)
        return sample(pipeline, each, seeds=drawn, progress=progress, **options)


def _together(
    pipeline: Pipeline,
    requests: Sequence[Request],
    progress: Progress | None,
    options: Options,
) -> list[Image.Image]:
    """Draw requests in common batches; all are checked before the first is drawn."""
    model, words, images = model_for(pipeline), _renamed(requests), list[Image.Image]()
    nets = [*pipeline.components.values(), *model.module.modules()]
    fixed = any(hasattr(n, "_orig_mod") or getattr(n, "_compiled_call_impl", None) for n in nets)
    count = 1 if fixed else at_once(model.size)  # what is compiled keeps its forward
    jobs = _checked(pipeline, requests, words, options.get("negative_prompt") or "")
    alike = [[*same] for _, same in groupby(jobs, lambda job: job[2])]  # sample splits the others
    with applied(pipeline, []):  # the model is looked at once
        for batch in (same[k : k + count] for same in alike for k in range(0, len(same), count)):
            some, said, _ = zip(*batch, strict=True)
            masks = [[(concept.mask, amount) for concept, amount in r.pairs] for r in some]
            with _spoken(pipeline, some, words), shut_each(model.module, masks):
                images += sample(pipeline, said, seeds=[r.seed for r in some], **options)
            if progress:
                progress("draw", len(images), len(jobs))
    return images


def _renamed(requests: Sequence[Request]) -> dict[int, Word]:
    """Give every word an identifier of its own, by the word's id, so that none meet."""
    found: dict[int, Word] = {}
    for request in requests:
        for word in told_apart(word for concept, _ in request.pairs for word in concept.words):
            name = f"{word.identifier[:40]}⟨{len(found)}⟩"
            found.setdefault(id(word), replace(word, identifier=name))
    return found


def _spoken(
    pipeline: Pipeline, requests: Sequence[Request], words: Mapping[int, Word]
) -> AbstractContextManager[None]:
    """Say the new words while the context is open; no neuron is shut."""
    none, found = (Mask.empty({}),), {id(c): c for each in requests for c, _ in each.pairs}
    silent = [Concept(none, tuple(words[id(w)] for w in c.words), c.base) for c in found.values()]
    return applied(pipeline, silent)


def _checked(
    pipeline: Pipeline, requests: Sequence[Request], words: Mapping[int, Word], unwanted: str
) -> list[tuple[Request, str, int]]:
    """Give every request's prompt with the new identifiers, and in how many parts it is read.

    What would not be drawn as it says is refused, in its own words.
    """
    jobs = []
    with _spoken(pipeline, requests, words):
        check_prompt(pipeline, unwanted, [])
        for each in requests:
            own = [word for concept, _ in each.pairs for word in concept.words]
            own.sort(key=lambda word: -len(word.identifier))
            names = {word.identifier: words[id(word)].identifier for word in own}
            if lost := [name for name in names if name in unwanted]:
                raise PromptError(
                    f"found {lost[0]!r} in the negative prompt of several requests; expected "
                    "plain words, for each may mean another; draw them one by one"
                )
            # A plain word such as 'sks' may well be part of another one.
            plain = [rf"\b{n}\b" if re.fullmatch(r"\w+", n) else re.escape(n) for n in names]
            said = re.sub("|".join(plain) or "$^", lambda at, n=names: n[at[0]], each.prompt)
            try:
                check_prompt(pipeline, said, [*names.values()])
            except PromptError as error:
                told = str(error)
                for old, new in names.items():
                    told = told.replace(new, old)
                raise PromptError(told) from None
            jobs.append((each, said, len(parts(pipeline, said))))
    return jobs


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
    with suppress(OSError, KeyError, ValueError), Image.open(path, formats=["PNG"]) as image:
        if isinstance(record := json.loads(image.info[KEY]), dict):
            return record
    return None
