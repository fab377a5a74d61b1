"""Many searches: each a job that ends in a file, all told in one log, here or on Ray.

A job says all that its file depends on. So one that is done is known again and skipped, and one
that was cut short goes on where it was, wherever it is tried again. Workers of Ray read photos and
write files by the same paths as the process that sends them. Other tasks take the same road.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import torch

import cones
from cones.concept import Concept
from cones.concept_file import loads
from cones.errors import ConesError
from cones.files import alone, require_free, write_atomic
from cones.models import Pipeline
from cones.models.base import Progress
from cones.search.resume import silent
from cones.search.settings import Settings
from cones.search.spread import place, spread

Told: TypeAlias = dict[str, object]  # JSON values: what came of a job


@runtime_checkable
class Task(Protocol):
    """What ends in the file ``out``; ``key`` stands for all that the file depends on."""

    @property
    def out(self) -> Path: ...  # noqa: D102

    @property
    def key(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Job:
    """One search: photos, words, settings and model, and the file that it ends in."""

    photos: tuple[Path, ...]  # a folder, or files
    noun: str
    out: Path
    identifier: str = "V*"
    others: Path | None = None
    settings: Settings = field(default_factory=Settings)
    loading: tuple[tuple[str, object], ...] = ()  # arguments of load_pipeline
    overwrite: bool = False

    @property
    def work(self) -> Path:
        """Say where the search is kept until it is done."""
        return self.out.with_name(f"{self.out.name}.part")

    @property
    def key(self) -> str:
        """Digest all that the file depends on, the photos' bytes too."""
        return self._key

    @cached_property
    def _key(self) -> str:
        said = self.noun, self.identifier, self.settings.recorded(), self.loading
        sha = hashlib.sha256(repr(said).encode())
        for path in (*self.photos, *filter(None, [self.others])):
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                sha.update(f"/{file.name}/{_digest(file)}".encode())
            sha.update(b"//")
        return sha.hexdigest()[:16]


def search(job: Job, pipeline: Pipeline, progress: Progress = silent) -> Concept | None:
    """Search and write the file; until then all is kept in ``OUT.part``, where a search goes on.

    Of processes that share one search the first writes, and the others get None. A file that
    exists, or that another process searches for, is refused.
    """
    leads, work = place()[0] == 0, job.work
    kept = work / f"{job.key}.safetensors"  # so a run that is killed at the end is known as done
    with alone(work / "lock") if leads else nullcontext():
        ((done,),) = spread([lambda: (torch.tensor(kept.exists()),)])  # as the first one sees it
        if not done:
            require_free(job.out, replaceable=job.overwrite)
            photos = job.photos[0] if len(job.photos) == 1 else job.photos
            said = {"noun": job.noun, "identifier": job.identifier, "others": job.others}
            how = {"settings": job.settings, "work": work, "progress": progress}
            concept = cones.find(pipeline, photos, **said, **how)
            if leads:
                concept.save(kept)
        if not leads:
            return None
        data = kept.read_bytes()
        same = job.out.exists() and job.out.read_bytes() == data
        require_free(job.out, replaceable=job.overwrite or same)  # hours may have passed
        write_atomic(job.out, data)
        shutil.rmtree(work, ignore_errors=True)
    return loads(data)


_pipeline = cache(lambda loading: cones.load_pipeline(**dict(loading)))


def attempt(job: Job, progress: Progress = silent) -> Told:
    """Do a job in this process, which keeps the model for the next, and say what came of it."""
    started = time.monotonic()
    concept = search(job, _pipeline(job.loading), progress)
    verdict = concept.certificate["verdict"] if concept else None
    took = {"seconds": round(time.monotonic() - started, 1), "sha256": _digest(job.out)}
    return {"verdict": verdict, **took, "process": f"{os.getpid()} on {socket.gethostname()}"}


Submit: TypeAlias = Callable[..., "Future[Told]"]  # of a task


def here(do: Callable[..., Told]) -> Submit:
    """Do tasks in this process, each when it is submitted."""

    def submit(job: Task) -> "Future[Told]":
        future: Future[Told] = Future()
        try:
            future.set_result(do(job))
        except Exception as error:  # whatever ends a job must not end the others
            future.set_exception(error)
        return future

    return submit


@contextmanager
def on_ray(
    address: str, workers: int | None = None, do: Callable[..., Told] = attempt
) -> Iterator[tuple[Submit, int]]:
    """Do tasks on Ray; give how one is submitted, and how many are done at once.

    The address ``local`` starts Ray on this machine; all others are those of ``ray.init``. Without
    ``workers`` it is one for every GPU, or without any one for every machine.
    """
    if find_spec("ray") is None:
        raise ConesError("found no ray; expected it to work on Ray; pip install 'cones[scale]'")
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to its makers
    cores = max(workers or 1, os.cpu_count() or 1)
    here_alone = {"num_cpus": cores, "include_dashboard": False} if address == "local" else {}
    with ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **here_alone):
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        at_once = workers or gpus or len(ray.nodes())
        share, one = 1 if gpus else max(1, cpus // at_once), int(gpus > 0)
        wanting = ray.remote(num_cpus=share, num_gpus=one, max_retries=0, max_calls=0)
        remote = wanting(do)  # no limit of calls: workers live on, and keep their model
        yield (lambda job: remote.remote(job).future()), at_once  # pyright: ignore


def run(
    jobs: Sequence[Task],
    log: Path,
    submit: Submit,
    *,
    at_once: int = 1,
    retries: int = 1,
    progress: Progress = silent,
) -> list[Told]:
    """Do the jobs that are not done yet; an error of one does not end the others.

    Errors of the library are final, as they would come again. All others (a worker that died, a
    full disk) are tried again, after the other jobs.

    Returns:
        What the log says last of every job.
    """
    known, waiting = _read(log), deque[tuple[Task, int]]()
    told, flying = dict[Task, Told](), dict["Future[Told]", tuple[Task, int]]()
    for job in jobs:
        if found := known.get((str(job.out), job.key, _digest(job.out))):
            told[job] = {**found, "state": "there"}
        else:
            waiting.append((job, 1))
    while waiting or flying:
        while waiting and len(flying) < at_once:
            job, tried = waiting.popleft()
            _write(log, job, {"state": "started", "tried": tried})
            flying[submit(job)] = job, tried
        for future in wait(flying, return_when=FIRST_COMPLETED).done:
            (job, tried), error = flying.pop(future), future.exception()
            if error and tried <= retries and not isinstance(error, ConesError):
                waiting.append((job, tried + 1))
            found = {"state": "done", **future.result()} if error is None else _failed(error)
            told[job] = _write(log, job, {"tried": tried, **found})
            ended = len(jobs) - len(waiting) - len(flying)
            progress("subjects", ended, len(jobs), f"{job.out.name} {found['state']}")
    return [told[job] for job in jobs]


def _failed(error: BaseException) -> Told:
    """Say what ended a job, without Ray's account of it."""
    cause = getattr(error, "cause", None) or error
    said = " ".join(str(cause).split())[:1000]
    return {"state": "failed", "error": f"{type(cause).__name__}: {said}"}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _write(log: Path, job: Task, found: Told) -> Told:
    """Append a line to the log; the last may have been cut."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    told = {"time": now, "out": str(job.out), "key": job.key, **found}
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" * bool(file.tell()) + json.dumps(told))
    return told


def _read(log: Path) -> dict[tuple[str, str, str], Told]:
    """Read the lines that say what is done."""
    found = {}
    for line in log.read_text("utf-8").splitlines() if log.exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            found[told["out"], told["key"], told["sha256"]] = told
    return found
