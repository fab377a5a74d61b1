"""``cones generate`` and ``cones demo``: draw pictures with concepts."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cones.cli import options, places, screen, search
from cones.errors import ConesError

BATCH = 8
PHOTOS = Path("examples/photos/siamese_cat")


@dataclass(frozen=True)
class _Job:
    """What is drawn, and where each picture goes by its seed."""

    prompt: str
    drawing: dict[str, Any]
    settings: dict[str, Any]
    paths: dict[int, Path]
    sheet: Path
    photo: Any = None


@screen.guarded
def generate(
    prompt: options.Prompt,
    concept: options.Concepts,
    output: options.Folder,
    model: options.Model = None,
    number: options.Number = 4,
    steps: options.Steps = 50,
    guidance: options.Guidance = 7.5,
    strength: options.Strength = 1.0,
    negative: options.Negative = None,
    excite: options.Excite = None,
    image: options.Image = None,
    inpaint: options.Inpaint = None,
    amount: options.Amount = 0.6,
    density: options.Density = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures of a prompt with the neurons of one concept or several shut.

    Picture i depends on seed + i alone. Every PNG carries its settings in its metadata; sheet.png
    shows them all. After Ctrl-C the same command keeps the finished pictures and draws the rest.
    With --image a photo is drawn over, with --inpaint only where that mask is white.

    **Example:**  cones generate -c cat.safetensors "a V* cat in the snow" -o out/
    """
    from cones.redraw import require_amount

    drawing = {"steps": steps, "guidance": guidance, "strength": strength}
    drawing["negative_prompt"] = negative
    concepts = load_concepts(concept, density)
    settings = {"prompt": prompt, **drawing, "model": model or "built-in", "dtype": dtype}
    settings["excite"] = excite
    photo = _photo(image, inpaint, excite)
    if photo is not None:
        require_amount(amount, steps)
        settings["photo"] = {**photo.digests, "amount": amount}
    settings["concepts"] = [_described(found) for found in concepts]
    paths = {seed + i: output / f"{i:03d}.png" for i in range(number)}
    job = _Job(prompt, drawing, settings, paths, output / "sheet.png", photo)
    missing = _missing(job, overwrite=overwrite)
    places.require_folder(output)
    _warn_missing(concepts, prompt)
    _draw(job, missing, concepts, lambda: _pipeline(model, device, dtype))
    _conclude(job, as_json=as_json)


def _photo(image: Path | None, inpaint: Path | None, excite: list[str] | None) -> Any:
    """Read what is to be drawn over, or give None.

    Raises:
        ConesError: A file cannot be used, or an option does not go with the others.
    """
    from cones.redraw import Photo

    if image is None and inpaint is None:
        return None
    if image is None or excite:
        raise ConesError(
            f"found {'--excite with --image' if excite else '--inpaint without --image'}; "
            "expected a photo to draw over, without words to excite; change the options"
        )
    return Photo(image, inpaint)


def load_concepts(files: list[Path], density: float | None) -> list[Any]:
    """Read concept files, at a density if one is given.

    Raises:
        ConesError: One is missing or damaged.
    """
    from cones.concept_file import load

    concepts = [load(path) for path in places.require_files(files, what="a concept file")]
    if density is None:
        return concepts
    return [concept.at(density) for concept in concepts]


def _warn_missing(concepts: list[Any], prompt: str) -> None:
    from cones.generate import missing_identifiers

    for word in missing_identifiers(concepts, [prompt]):
        screen.warn(
            f"the prompt does not say {word!r}, so its subject will hardly appear; "
            f'write for example "a {word} {concepts[0].noun} on a beach"'
        )


def warn_of_fine_tunes(pipeline: Any, concepts: list[Any]) -> None:
    """Say so when the model is not the one a concept was found on, but close enough to use."""
    from cones.generate import verdicts

    for concept, verdict in zip(concepts, verdicts(pipeline, concepts), strict=True):
        if verdict == "fine-tune":
            screen.warn(
                f"this model is a fine-tune of {concept.base.model!r}, where {concept.identifier} "
                "was found; its subject may look otherwise"
            )


def _pipeline(model: str | None, device: str | None, dtype: str | None) -> Any:
    return places.pipeline(model, device=device, dtype=dtype, half=True)


def _described(concept: Any) -> dict[str, Any]:
    values = concept.values
    own = {} if values is None else {"precision": values.precision, "values": values.digest}
    return {
        "words": [f"{member.identifier} {member.noun}" for member in concept.members],
        "base": concept.base.model,
        "density": concept.mask.density,
        "mask": concept.mask.digest,
        **own,
    }


def _missing(job: _Job, *, overwrite: bool) -> list[int]:
    """List the seeds still to be drawn; refuse a finished job and pictures of another."""
    from cones.plot import read_settings

    places.require_free([job.sheet], overwrite=overwrite)
    kept = {
        seed
        for seed, path in job.paths.items()
        if path.exists()
        and not overwrite
        and read_settings(path) == {**job.settings, "seed": seed}
    }
    missing = [seed for seed in job.paths if seed not in kept]
    places.require_free([job.paths[seed] for seed in missing], overwrite=overwrite)
    if kept:
        screen.say(f"{len(kept)} of {len(job.paths)} pictures are there already")
    return missing


def _draw(job: _Job, missing: list[int], concepts: list[Any], pipeline: Any) -> None:
    """Draw the missing pictures a few at a time and write each few at once."""
    from cones.plot import save_picture

    hint = f"the finished pictures are in {job.sheet.parent}; the same command draws the rest"
    first = min(job.paths)
    with screen.resumable(hint), screen.bars() as notify:
        loaded = pipeline()
        warn_of_fine_tunes(loaded, concepts)
        draw = _drawer(loaded, concepts, job)
        for start in range(first, first + len(job.paths), BATCH):
            seeds = [seed for seed in range(start, start + BATCH) if seed in missing]
            if not seeds:
                continue
            count = seeds[-1] - seeds[0] + 1
            images = draw(seed=seeds[0], count=count, **job.drawing)
            for seed in seeds:
                settings = {**job.settings, "seed": seed}
                save_picture(images[seed - seeds[0]], job.paths[seed], settings)
            notify("pictures", seeds[-1] - first + 1, len(job.paths), None)


def _drawer(pipeline: Any, concepts: list[Any], job: _Job) -> Any:
    """Choose what draws: from noise, or over a photo."""
    from cones.generate import generate
    from cones.redraw import redraw

    given = (pipeline, concepts, job.prompt)
    if job.photo is None:
        return partial(generate, *given, on_step=_excited(pipeline, concepts, job))
    return partial(redraw, *given, job.photo, amount=job.settings["photo"]["amount"])


def _excited(pipeline: Any, concepts: list[Any], job: _Job) -> Any:
    """Find the words that must be seen, or give None where none is asked for."""
    from cones.excite import Excite
    from cones.generate import edit

    if not job.settings["excite"]:
        return None
    edit(pipeline, concepts)  # their words have to be known before they can be found
    return Excite.of(pipeline, job.prompt, job.settings["excite"])


def _conclude(job: _Job, *, as_json: bool) -> None:
    """Put all pictures on a sheet and say where they are."""
    from PIL import Image

    from cones.plot import Row, picture_sheet, save_picture

    images = [Image.open(path) for path in job.paths.values()]
    said = [f"seed {seed}" for seed in job.paths]
    starts = range(0, len(images), 4)
    rows = [Row("", images[k : k + 4], said[k : k + 4]) for k in starts]
    side = min(max(images[0].width, 128), 256)
    sheet = picture_sheet(rows, title=job.prompt, side=side)
    save_picture(sheet, job.sheet, {**job.settings, "seeds": list(job.paths)})
    if as_json:
        made = [str(path) for path in job.paths.values()]
        screen.emit({"pictures": made, "sheet": str(job.sheet), "settings": job.settings})
    else:
        screen.tell(f"{len(images)} pictures in {job.sheet.parent}, all on {job.sheet}")


@screen.guarded
def demo(
    images: options.Photos = [PHOTOS],  # noqa: B006
    noun: options.Noun = "cat",
    identifier: options.Identifier = "V*",
    output: options.Folder = Path("out/demo"),
    model: options.Model = None,
    number: options.Number = 2,
    steps: options.Steps = 50,
    guidance: options.Guidance = 7.5,
    more: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Show the whole job: find a subject, draw it in new scenes beside two controls.

    Writes sheet.png, concept.safetensors and demo.json. The controls are the untouched model and a
    random mask of the same density in every layer, with the same prompts and seeds.

    **Example:**  cones demo examples/photos/siamese_cat --noun cat
    """
    from cones import demo as work

    settings = search.settings_of({"seed": seed}, more or [])
    drawing = work.Drawing(count=number, steps=steps, guidance=guidance, seed=seed)
    results = [output / name for name in (work.SHEET, work.CONCEPT_FILE, work.RECORD)]
    places.require_free(results, overwrite=overwrite)
    places.require_folder(output)
    if not all(path.exists() for path in images):
        raise ConesError(f"found no {images[0]}; expected a folder of photos; give one")
    search.warn_unknown(noun, model)
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    subject = search.read_subject(pipeline, images, noun, identifier)
    record = _show(work, pipeline, subject, output, settings, drawing)
    _tell(record, results[0], as_json=as_json)


def _show(
    work: Any, pipeline: Any, subject: Any, output: Path, settings: Any, drawing: Any
) -> dict[str, Any]:
    state = output / work.STATE
    hint = f"the search so far is kept in {state}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        record = work.demo(
            pipeline,
            subject,
            output,
            settings=settings,
            drawing=drawing,
            on_progress=lambda s: notify(s.stage, s.step, s.steps, s.loss),
        )
    shutil.rmtree(state, ignore_errors=True)
    return record


def _tell(record: dict[str, Any], sheet: Path, *, as_json: bool) -> None:
    search.warn_raised(record["certificate"])
    if as_json:
        screen.emit(record)
        return
    for line in search.certificate_lines(record["certificate"]):
        screen.tell(line)
    screen.tell(f"look at {sheet}")
