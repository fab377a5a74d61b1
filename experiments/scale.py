"""Many searches on Ray, one search on two processes: ``python -m experiments scale``.

Eight small searches run in a plain loop, and again on two workers of Ray, of which one is killed
in the middle of a search: all files have to be equal, time stamps aside. Then one search of the
built-in model runs on one process and on two, of one thread each: what does a second one gain?
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import cones
from cones.models.base import Progress
from cones.scale import Job, attempt, here, on_ray, run
from cones.search.spread import one_search
from experiments.kill import compared, contents
from experiments.small import small
from experiments.subjects import ROOT, load_examples

TINY = {"prior_count": 8, "prior_steps": 2, "draws": 8, "steps": 12, "score_steps": 4, "batch": 2}
# A thirtieth of a default search.
SHARED = {"steps": 10, "score_steps": 1, "prior_count": 2, "prior_steps": 2, "draws": 8}
SUBJECT = "striped_cat"


def jobs(folder: Path, name: str) -> list[Job]:
    """List a small search for each of eight subjects, whose files go to a folder of that name."""
    if not (folder / "model").exists():
        small().save_pretrained(folder / "model")
    settings = cones.Settings().changed(TINY)
    model = (("model", str(folder / "model")), ("dtype", "float32"))
    (folder / name).mkdir(parents=True, exist_ok=True)
    return [
        Job((each.folder,), each.noun, folder / name / f"{key}.safetensors",
            settings=settings, loading=model)
        for key, each in [*load_examples().items()][:8]
    ]  # fmt: skip


def kill_one(out: Path, log: Path, after: int) -> None:
    """Kill the process of a search that is under way, once some are done."""
    while True:
        time.sleep(0.01)
        done = log.read_text("utf-8").count('"state": "done"') if log.exists() else 0
        for owner in out.glob("*.part/search/*/*owner") if done >= after else ():
            with suppress(OSError):
                os.kill(int(owner.read_text("utf-8").split()[0]), signal.SIGKILL)
                return


def many(folder: Path) -> dict[str, Any]:
    """Search for eight subjects in a loop and on Ray, where one worker dies; compare."""
    torch.set_num_threads(1)
    os.environ.update(RAY_worker_niceness="0")  # else workers stand back behind all others
    logs, begun = {name: folder / f"{name}.log" for name in ("loop", "ray")}, time.monotonic()
    run(jobs(folder, "loop"), logs["loop"], here(attempt))
    alone, work = time.monotonic() - begun, jobs(folder, "ray")
    killer = threading.Thread(target=kill_one, args=(folder / "ray", logs["ray"], 3), daemon=True)
    killer.start()
    with on_ray("local", 2) as (submit, at_once):
        begun = time.monotonic()
        told = run(work, logs["ray"], submit, at_once=at_once)
        spent = time.monotonic() - begun
        again = run(work, logs["ray"], submit, at_once=at_once)
    found = compared(contents(folder / "loop"), contents(folder / "ray"))
    lines = map(json.loads, logs["ray"].read_text("utf-8").splitlines())
    return {
        "subjects": len(told),
        "workers": at_once,
        "processes": len({each.get("process") for each in told}),
        "killed": [each["error"].split(":")[0] for each in lines if each["state"] == "failed"],
        "equal": len(told) - len(found["differing"]),
        "strays": len(found["strays"]),
        "skipped": sum(each["state"] == "there" for each in again),
        "seconds": {"loop": round(alone, 1), "ray": round(spent, 1)},
    }


def child(count: int, micro_batch: int | None) -> None:
    """Do one search in this process, which is one of ``count``, and print what it took."""
    torch.set_num_threads(1)
    pipeline = cones.load_pipeline(dtype="float32", device="cpu")
    settings = cones.Settings().changed({**SHARED, "micro_batch": micro_batch})
    took: dict[str, list[float]] = {}
    last = [time.monotonic(), time.process_time()]

    def progress(stage: str, *_: object) -> None:
        now = [time.monotonic(), time.process_time()]
        spent = took.setdefault("all", [0.0, 0.0]), took.setdefault(stage.split()[0], [0.0, 0.0])
        for each in spent:
            each[:] = [a + b - c for a, b, c in zip(each, now, last, strict=True)]
        last[:] = now

    with one_search():
        found = cones.find(
            pipeline, ROOT / SUBJECT, noun="cat", settings=settings, progress=progress
        )
    found.certificate.pop("seconds")
    shown = {"mask": found.mask.digest, "certificate": found.certificate, "took": took}
    print(json.dumps(shown))  # noqa: T201 - to the process that started this


def launched(count: int, micro_batch: int | None) -> list[dict[str, Any]]:
    """Run :func:`child` in as many processes, with the variables that ``accelerate`` sets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    program = f"from experiments.scale import child; child({count}, {micro_batch})"
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program],
            env=os.environ | told | {"RANK": str(k), "LOCAL_RANK": str(k)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for k in range(count)
    ]
    return [json.loads(each.communicate()[0].splitlines()[-1]) for each in running]


def together() -> dict[str, Any]:
    """Measure one search on one process, in parts of one sample, and on two."""
    one, two = launched(1, 1), launched(2, 1)
    same = {json.dumps([each["mask"], each["certificate"]]) for each in one + two}
    found: dict[str, Any] = {"equal": len(same) == 1}
    for at, kind in enumerate(("wall", "cpu")):
        took = [
            {stage: max(each["took"][stage][at] for each in ran) for stage in one[0]["took"]}
            for ran in (one, two)
        ]
        shares = {stage: round(took[0][stage] / took[1][stage] / 2, 3) for stage in took[0]}
        rounded = [{stage: round(each, 2) for stage, each in t.items()} for t in took]
        found[kind] = {"one": rounded[0], "two": rounded[1], "efficiency": shares}
    return found


def results(work: Path, progress: Progress) -> dict[str, Any]:
    """Run both."""
    shutil.rmtree(work, ignore_errors=True)
    return {"many": many(work), "together": together()}
