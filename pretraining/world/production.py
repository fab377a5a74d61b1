"""Makes the stores: renders looks, composes pictures, part by part in several processes.

Every part depends only on its own numbers and the seed. A finished part is kept if it was made of
the same settings, so an interrupted run goes on where it stopped.
"""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pretraining.world.looks import NAMED, Look, View, draw_look, named_look, photograph
from pretraining.world.scenes import Picture, compose
from pretraining.world.stores import LOOK_SIZE, LookStore

LOOKS_A_PART, PICTURES_A_PART, NAMED_VIEWS = 500, 1000, 10
Part = tuple[np.ndarray, list[dict[str, Any]]]
Job = tuple[Callable[..., Part], Path, str, dict[str, Any]]


def render_looks(folder: Path, count: int, *, seed: int = 0, processes: int = 1) -> None:
    """Render looks number 0 to count - 1, one view each, and ten views of every named one."""
    jobs = _jobs(_look_part, folder, "looks", count, LOOKS_A_PART, seed=seed)
    jobs += _jobs(_named_part, folder, "named", NAMED * NAMED_VIEWS, LOOKS_A_PART, seed=seed)
    _run(jobs, "looks", processes)


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
    settings |= {"looks": str(Path(looks).resolve()), "of": len(_opened(str(looks)).rows)}
    jobs = _jobs(
        _picture_part, folder, "pictures", count, PICTURES_A_PART, start=start, **settings
    )
    _run(jobs, "pictures", processes)


def _jobs(
    make: Callable[..., Part],
    folder: Path,
    stem: str,
    count: int,
    each: int,
    *,
    start: int = 0,
    **settings: str | int,
) -> list[Job]:
    """Cut numbers into parts."""
    jobs: list[Job] = []
    for part, first in enumerate(range(0, count, each)):
        numbers = {"first": start + first, "count": min(each, count - first)}
        path = Path(folder) / f"{stem}-{part:05d}.npy"
        jobs.append((make, path, stem, numbers | settings))
    return jobs


def _look_part(first: int, count: int, seed: int) -> Part:
    """Render one view each of a run of looks."""
    shots = []
    for number in range(first, first + count):
        look = draw_look(number, seed=seed)
        view = photograph(look, np.random.default_rng((seed, 1, number)))
        shots.append((number, look, view))
    return packed(shots)


def _named_part(first: int, count: int, seed: int) -> Part:
    """Render a run of the views of the named looks."""
    shots = []
    for number in range(first, first + count):
        look = named_look(number // NAMED_VIEWS)
        view = photograph(look, np.random.default_rng((seed, 2, number)))
        shots.append((number, look, view))
    return packed(shots)


def packed(shots: Sequence[tuple[int, Look, View]]) -> Part:
    """Put cropped views into one array, each in its upper left corner."""
    array = np.zeros((len(shots), LOOK_SIZE, LOOK_SIZE, 4), np.uint8)
    rows = []
    for k, (number, look, view) in enumerate(shots):
        height, width = view.rgba.shape[:2]
        array[k, :height, :width] = view.rgba
        labels = {key: getattr(look, key) for key in ("noun", "main", "second", "pattern", "kind")}
        pose = {"yaw": float(view.yaw), "pitch": float(view.pitch), "size": [height, width]}
        rows.append({"number": number, **labels, "name": look.name, **pose})
    return array, rows


@cache
def _opened(folder: str) -> LookStore:
    """Open the looks once a process."""
    return LookStore.open(Path(folder))


def _picture_part(
    first: int, count: int, seed: int, size: int, held_out: bool, looks: str, of: int
) -> Part:
    """Compose a run of pictures."""
    store = _opened(looks)
    array, rows = np.zeros((count, size, size, 3), np.uint8), []
    for k in range(count):
        picture = compose(first + k, store, seed=seed, size=size, held_out=held_out)
        array[k] = picture.pixels
        rows.append({"number": first + k, **picture_row(picture)})
    return array, rows


def picture_row(picture: Picture) -> dict[str, Any]:
    """Return the labels of a picture as plain values, without its masks."""
    keys = ("caption", "place", "light", "relation", "held_out")
    things = [{**vars(thing), "box": list(thing.box)} for thing in picture.things]
    for thing in things:
        del thing["mask"]
    return {**{key: getattr(picture, key) for key in keys}, "things": things}


def _done(job: Job) -> bool:
    """Whether a part is there and was made of the same settings."""
    path = job[1].with_suffix(".json")
    return path.exists() and json.loads(path.read_text())["made"] == job[3]


def _make(job: Job) -> int:
    """Make one part and write it; the json comes last."""
    make, path, _, settings = job
    array, rows = make(**settings)
    path.with_suffix(".json").unlink(missing_ok=True)
    with _written(path) as file:
        np.save(file, array)
    with _written(path.with_suffix(".json")) as file:
        file.write(json.dumps({"made": settings, "rows": rows}).encode())
    return len(rows)


@contextmanager
def _written(path: Path) -> Iterator[Any]:
    """Open a file that appears under its name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def _prepare() -> None:
    """Set up a worker: one thread, and death without a word on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _run(jobs: Sequence[Job], what: str, processes: int) -> None:
    """Make the parts that are missing, with a bar, or a line every 30 s when piped."""
    console = Console(stderr=True)
    missing = [job for job in jobs if not _done(job)]
    total = sum(job[3]["count"] for job in jobs)
    done = total - sum(job[3]["count"] for job in missing)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_prepare)
    started, said, before = time.monotonic(), time.monotonic(), done
    try:
        with shown:
            task = shown.add_task(what, total=total, completed=done)
            for future in as_completed([pool.submit(_make, job) for job in missing]):
                done += future.result()
                shown.update(task, completed=done)
                now = time.monotonic()
                if not console.is_terminal and (now - said > 30 or done == total):
                    rate, said = (done - before) / (now - started), now
                    console.print(f"{what}: {done} of {total}, {rate:.0f} a second")
    finally:
        pool.shutdown(cancel_futures=True)
