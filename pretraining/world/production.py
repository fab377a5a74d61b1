"""Makes what is on disk: rendered looks, composed pictures, example photos of subjects.

Looks and pictures are made part by part in several processes. Every part depends only on its own
numbers and the seed. A finished part is kept if it was made of the same settings, so an
interrupted run goes on where it stopped.

A subject's folder of photos holds `00.png` ..., `masks/`, `labels.json`, and the same again in
`kept/` (more views of it, for measuring), in `other/` (other individuals of its noun) and in
`stranger/` (one more individual, of other colours: the control of a search). Photos show one
individual, large, each time in another place; unlike training pictures, a noun in any place.
"""

import itertools
import json
import signal
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from cones.files import replace_when_done, write_atomic
from pretraining.world import scenes
from pretraining.world.captions import PLACES, prompt
from pretraining.world.looks import (
    NAMED,
    SUBJECTS,
    TUNING,
    Look,
    View,
    draw_look,
    named_look,
    photograph,
    subject_look,
)
from pretraining.world.scenes import NOUNS, Picture, compose
from pretraining.world.stores import LOOK_SIZE, LookStore

OTHERS = 1_000_000  # numbers of looks far beyond those training renders

Part = tuple[np.ndarray, list[dict[str, Any]]]
Folder = Annotated[Path, typer.Option(help="Folder of the parts; finished ones are kept.")]
Looks = Annotated[Path, typer.Option(help="Folder that `render` wrote.")]
Count = Annotated[int, typer.Option(min=1, help="How many.")]
Views = Annotated[int, typer.Option(min=1, help="Views of every named individual.")]
Processes = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]


def render_looks(
    folder: Folder,
    count: Count = 12_000,
    *,
    seed: int = 0,
    named_views: Views = 10,
    processes: Processes = 2,
) -> None:
    """Render random looks, at least one a noun, and views of every named individual."""
    kinds = (("looks", max(count, len(NOUNS)), 0), ("named", NAMED * named_views, named_views))
    for stem, total, views in kinds:
        _produce(folder / stem, _look_part, range(total), 500, processes, seed=seed, views=views)


def compose_pictures(
    folder: Folder,
    looks: Looks,
    count: Count = 50_000,
    *,
    start: int = 0,
    seed: int = 0,
    size: int = 128,
    held_out: Annotated[bool, typer.Option(help="Only what training never shows.")] = False,
    processes: Processes = 2,
) -> None:
    """Compose pictures number START to START + COUNT - 1 with captions and labels."""
    made = {"seed": seed, "size": size, "held_out": held_out}
    made["looks"] = zlib.crc32(json.dumps(_opened(looks).rows).encode())
    numbers, make = range(start, start + count), partial(_picture_part, looks)
    _produce(folder / "pictures", make, numbers, 1000, processes, **made)


def _look_part(first: int, count: int, *, views: int, seed: int) -> Part:
    """Render a view for each number: of a random look, or one of `views` of a named look."""
    shots = []
    for number in range(first, first + count):
        look = named_look(number // views) if views else draw_look(number, seed=seed)
        view = photograph(look, np.random.default_rng((seed, 2 if views else 1, number)))
        shots.append((number, look, view))
    return packed(shots)


def packed(shots: Sequence[tuple[int, Look, View]]) -> Part:
    """Put cropped views into one array, each in its upper left corner, and describe them."""
    array, rows = np.zeros((len(shots), LOOK_SIZE, LOOK_SIZE, 4), np.uint8), []
    for sprite, (number, look, view) in zip(array, shots, strict=True):
        height, width, _ = view.rgba.shape
        sprite[:height, :width] = view.rgba
        row = {key: value for key, value in vars(look).items() if key != "parameters"}
        rows.append(
            row | {"number": number, "yaw": view.yaw, "pitch": view.pitch, "size": [height, width]}
        )
    return array, rows


@cache
def _opened(folder: Path) -> LookStore:
    """Open the looks once a process."""
    return LookStore.open(folder)


def _picture_part(folder: Path, first: int, count: int, *, looks: int, **settings: int) -> Part:
    """Compose one picture for each number; `looks` tells one set of looks from another."""
    numbers = range(first, first + count)
    pictures = [compose(number, _opened(folder), **settings) for number in numbers]
    rows = [{"number": n} | picture_row(p) for n, p in zip(numbers, pictures, strict=True)]
    return np.stack([picture.pixels for picture in pictures]), rows


def picture_row(picture: Picture) -> dict[str, Any]:
    """Return the labels of a picture as plain values, without its masks."""
    keys = ("caption", "place", "light", "relation", "held_out")
    things = [{k: v for k, v in vars(t).items() if k != "mask"} for t in picture.things]
    return {key: getattr(picture, key) for key in keys} | {"things": things}


def _make(path: Path, make: Callable[..., Part], made: dict[str, Any]) -> None:
    """Make one part and write it; the json comes last."""
    array, rows = make(**made)
    path.unlink(missing_ok=True)
    with replace_when_done(path.with_suffix(".npy")) as whole:
        np.save(whole, array)
    write_atomic(path, json.dumps({"made": made, "rows": rows}).encode())


def _prepare() -> None:
    """Set up a worker: one thread, and death without a word on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _produce(
    stem: Path, make: Callable[..., Part], numbers: range, each: int, processes: int, **made: int
) -> None:
    """Make the parts that are missing; say the time of each, and show a bar on a terminal."""
    jobs, console = [], Console(stderr=True, log_path=False)
    for first in range(0, len(numbers), each):
        chunk, path = numbers[first : first + each], Path(f"{stem}-{first // each:05d}.json")
        told = {"first": chunk.start, "count": len(chunk)} | made
        if not path.exists() or json.loads(path.read_text())["made"] != told:
            jobs.append((path, make, told))
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_prepare)
    try:
        futures = as_completed([pool.submit(_make, *job) for job in jobs])
        for done, future in enumerate(track(futures, stem.name, len(jobs), console=console), 1):
            future.result()
            console.log(f"{stem.name}: {done} of {len(jobs)} parts")
    finally:
        pool.shutdown(cancel_futures=True)


def photo(look: Look, place: str, rng: np.random.Generator, *, size: int = 128) -> Picture:
    """Take one photo of a look in a place."""
    array, rows = packed([(0, look, photograph(look, rng))])
    store, backdrop = LookStore([array], rows), int(rng.integers(scenes.BACKDROPS))
    spot = scenes.stand_alone(rng, 0, store, scenes.ground_of(place, backdrop, 0))
    mirrored, text = bool(rng.random() < 0.5), prompt(look.noun, place)
    scene = scenes.Scene((spot,), place, backdrop, mirrored, None, None, text, held_out=False)
    return scenes.develop(scene, store, size=size)


def write_photos(
    subject: Annotated[str, typer.Option(help="A subject's key, or all.")],
    output: Annotated[Path, typer.Option(help="Folder; each subject gets a folder in it.")],
    views: Annotated[int, typer.Option(min=1, help="Photos in each set.")] = 5,
    seed: int = 0,
) -> None:
    """Photograph a subject in different places: photos, more photos, others of its noun."""
    if subject != "all" and subject not in SUBJECTS:
        raise typer.BadParameter(f"no subject {subject!r}; choose all or {', '.join(SUBJECTS)}")
    for index, key in enumerate(SUBJECTS):
        if subject in ("all", key):
            for part, (name, looks) in enumerate(_sets(key, views).items()):
                rng = np.random.default_rng((seed, 5, index, part))
                places = [list(PLACES)[k] for k in rng.permutation(len(PLACES))]
                shots = [photo(one, places[k % len(places)], rng) for k, one in enumerate(looks)]
                _write_set(output / key / name, key if name in ("", "kept") else None, shots)


def _sets(key: str, views: int) -> dict[str, list[Look]]:
    """Choose whom sets show: the subject, others of its noun, and one of none of its colours."""
    own, noun = subject_look(key), NOUNS.index(SUBJECTS[key].noun)
    drawn = (draw_look(OTHERS + len(NOUNS) * k + noun) for k in itertools.count())
    others, colours = list(itertools.islice(drawn, views)), {own.main, own.second}
    stranger = next(one for one in drawn if not colours & {one.main, one.second})
    same = [own] * views
    return {"": same, "kept": same, "other": others, "stranger": [stranger] * views}


def _write_set(folder: Path, key: str | None, pictures: list[Picture]) -> None:
    """Write pictures, their masks and their labels."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for k, picture in enumerate(pictures):
        name = f"{k:02d}.png"
        even = picture.pixels & 254  # invisible, and a fifth smaller
        Image.fromarray(even).save(folder / name, optimize=True)
        Image.fromarray(picture.things[0].mask).save(folder / "masks" / name, optimize=True)
        rows.append({"file": name, "place": picture.place} | picture_row(picture)["things"][0])
    labels = {"subject": key, "noun": rows[0]["noun"], "photos": rows}
    labels |= {"tuning": key in TUNING} if key else {}
    (folder / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")
