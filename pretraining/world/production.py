"""Makes the stores: renders looks, composes pictures, part by part in several processes.

Every part depends only on its own numbers and the seed. A finished part is kept if it was made of
the same settings, so an interrupted run goes on where it stopped.
"""

import json
import signal
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from cones.files import replace_when_done, write_atomic
from pretraining.world.looks import NAMED, Look, View, draw_look, named_look, photograph
from pretraining.world.scenes import NOUNS, Picture, compose
from pretraining.world.stores import LOOK_SIZE, LookStore

Part = tuple[np.ndarray, list[dict[str, Any]]]


def render_looks(
    folder: Path, count: int, *, seed: int = 0, named_views: int = 10, processes: int = 1
) -> None:
    """Render looks number 0 to count - 1, at least one a noun, and views of every named one."""
    for stem, total, views in (
        ("looks", max(count, len(NOUNS)), 0),
        ("named", NAMED * named_views, named_views),
    ):
        make = partial(_look_part, views=views, seed=seed)
        made = {"seed": seed, "views": views}
        _produce(Path(folder) / stem, make, range(total), 500, made, processes)


def compose_pictures(
    folder: Path,
    looks: Path,
    count: int,
    *,
    start: int = 0,
    seed: int = 0,
    size: int = 128,
    held_out: bool = False,
    processes: int = 1,
) -> None:
    """Compose pictures number start to start + count - 1 from the looks in a folder."""
    settings = {"seed": seed, "size": size, "held_out": held_out}
    make = partial(_picture_part, looks=Path(looks), **settings)
    made = settings | {"looks": zlib.crc32(json.dumps(_opened(Path(looks)).rows).encode())}
    numbers = range(start, start + count)
    _produce(Path(folder) / "pictures", make, numbers, 1000, made, processes)


def _look_part(numbers: range, *, views: int, seed: int) -> Part:
    """Render a view for each number: of a random look, or one of `views` of a named look."""
    shots = []
    for number in numbers:
        look = named_look(number // views) if views else draw_look(number, seed=seed)
        view = photograph(look, np.random.default_rng((seed, 2 if views else 1, number)))
        shots.append((number, look, view))
    return packed(shots)


def packed(shots: Iterable[tuple[int, Look, View]]) -> Part:
    """Put cropped views into one array, each in its upper left corner, and describe them."""
    sprites, rows = [], []
    for number, look, view in shots:
        height, width = view.rgba.shape[:2]
        sprites.append(
            np.pad(view.rgba, ((0, LOOK_SIZE - height), (0, LOOK_SIZE - width), (0, 0)))
        )
        row = {key: value for key, value in vars(look).items() if key != "parameters"}
        row |= {"number": number, "yaw": view.yaw, "pitch": view.pitch, "size": [height, width]}
        rows.append(row)
    return np.stack(sprites), rows


@cache
def _opened(folder: Path) -> LookStore:
    """Open the looks once a process."""
    return LookStore.open(folder)


def _picture_part(numbers: range, *, looks: Path, **settings: Any) -> Part:  # noqa: ANN401
    """Compose one picture for each number."""
    pictures = [compose(number, _opened(looks), **settings) for number in numbers]
    rows = [{"number": n} | picture_row(p) for n, p in zip(numbers, pictures, strict=True)]
    return np.stack([picture.pixels for picture in pictures]), rows


def picture_row(picture: Picture) -> dict[str, Any]:
    """Return the labels of a picture as plain values, without its masks."""
    keys = ("caption", "place", "light", "relation", "held_out")
    things = [{k: v for k, v in vars(t).items() if k != "mask"} for t in picture.things]
    return {key: getattr(picture, key) for key in keys} | {"things": things}


def _make(path: Path, make: Callable[[range], Part], numbers: range, made: object) -> int:
    """Make one part and write it; the json comes last."""
    array, rows = make(numbers)
    path.with_suffix(".json").unlink(missing_ok=True)
    with replace_when_done(path) as whole:
        np.save(whole, array)
    write_atomic(path.with_suffix(".json"), json.dumps({"made": made, "rows": rows}).encode())
    return len(rows)


def _prepare() -> None:
    """Set up a worker: one thread, and death without a word on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _produce(
    stem: Path,
    make: Callable[[range], Part],
    numbers: range,
    each: int,
    settings: dict[str, Any],
    processes: int,
) -> None:
    """Make the parts that are missing, with a bar, or a line every 30 s when piped."""
    console = Console(stderr=True)
    jobs = []
    for part, first in enumerate(range(0, len(numbers), each)):
        chunk, path = numbers[first : first + each], Path(f"{stem}-{part:05d}.npy")
        made = {"first": chunk.start, "count": len(chunk)} | settings
        report = path.with_suffix(".json")
        if not report.exists() or json.loads(report.read_text())["made"] != made:
            jobs.append((path, make, chunk, made))
    done = before = len(numbers) - sum(len(job[2]) for job in jobs)
    started = said = time.monotonic()
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_prepare)
    try:
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(stem.name, total=len(numbers), completed=done)
            for future in as_completed([pool.submit(_make, *job) for job in jobs]):
                done, now = done + future.result(), time.monotonic()
                bar.update(task, completed=done)
                if not console.is_terminal and (now - said > 30 or done == len(numbers)):
                    rate, said = (done - before) / (now - started), now
                    console.print(f"{stem.name}: {done} of {len(numbers)}, {rate:.0f} a second")
    finally:
        pool.shutdown(cancel_futures=True)
