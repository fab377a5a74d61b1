"""Kill commands at random moments, run them again, compare: ``python -m experiments kill``.

A round starts a command in a child of a process that has loaded all it needs, kills it (signal 9),
lets the same command run to its end, and compares every file with those of a run that nobody
stopped, time stamps aside. Even rounds die at a random share of the CPU time, odd ones right
before a random change on disk. The model is tiny, and what goes on later is saved at every step.
"""

import importlib
import json
import multiprocessing
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ctypes import c_longlong
from pathlib import Path
from typing import Any

import torch

from cones.files import write_atomic
from experiments.small import small
from experiments.subjects import ROOT

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")  # and writing opens
SEARCH = ("prior_count=2", "prior_steps=2", "draws=4", "steps=3", "score_steps=2", "batch=2")
TRAIN = "pretraining.train"
LOADED = ("cones.cli", "cones.drawing", "cones.search.find", "experiments.__main__", TRAIN)


def commands(folder: Path, out: Path) -> dict[str, tuple[str, list[str]]]:
    """Give the module and the arguments of every command that is killed."""
    model, sets = ["--model", f"{folder}/model"], [w for each in SEARCH for w in ("--set", each)]
    found = [f"{ROOT}/striped_cat", "--noun", "cat", "-o", f"{out}/cat.safetensors"]
    drawn = ["-c", f"{folder}/whole/find/cat.safetensors", "a V* cat", "-n", "6", "-o", f"{out}"]
    study = ["certificate", "--quick", "--work", f"{out}/work", "--docs", f"{out}/docs"]
    trained = ["--work", f"{out}", "--scale", ".0001", "--stage", "text", "--steps", "text=4"]
    return {
        "find": ("cones", ["find", *found, *model, *sets]),
        "generate": ("cones", ["generate", *drawn, *model, "--num-inference-steps", "3"]),
        "study": ("experiments", ["run", *study, *model]),
        "training": (TRAIN, trained),
    }


def attempt(
    command: tuple[str, list[str]], out: Path, *, seconds: float = 0, change: int = -1
) -> tuple[int, float, int]:
    """Run a command in a child, and kill it after ``seconds`` of CPU time or at a change on disk.

    Returns:
        Its exit code, the CPU seconds it took and the changes it made below ``out``.
    """
    context = multiprocessing.get_context("fork")
    made, before = context.RawValue("q", 0), resource.getrusage(resource.RUSAGE_CHILDREN)
    child = context.Process(target=_become, args=(*command, out, made, change))
    child.start()
    while seconds and child.is_alive():
        told = Path(f"/proc/{child.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        if int(told[11]) + int(told[12]) >= seconds * os.sysconf("SC_CLK_TCK"):
            child.kill()
        time.sleep(0.01)
    child.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return int(child.exitcode or 0), spent, made.value


def _become(module: str, words: Sequence[str], out: Path, made: c_longlong, change: int) -> None:
    """Turn this process into a command."""

    def watch(event: str, told: tuple[object, ...]) -> None:
        writes = event == "open" and bool(int(str(told[2])) & (os.O_WRONLY | os.O_RDWR))
        if (writes or event in CHANGES) and str(out) in str(told):
            if made.value == change:
                os.kill(os.getpid(), signal.SIGKILL)
            made.value += 1

    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in ("cones.search.resume", "pretraining.loop"):
        vars(importlib.import_module(name))["SAVE_SECONDS"] = 0.0
    sys.argv = [module, *words]
    sys.addaudithook(watch)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def contents(out: Path) -> dict[str, object]:
    """Read all files below a folder, without the times in them."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        data, name = path.read_bytes(), path.relative_to(out).as_posix()
        found[name] = _timeless(data.decode()) if path.suffix == ".json" else data
        if path.suffix == ".safetensors":
            end = 8 + int.from_bytes(data[:8], "little")
            cut = len(data) - 32 * (b'"cones.sha256"' in data[8:end])  # a digest of times too
            found[name] = _timeless(data[8:end].decode(errors="replace")), data[end:cut]
    return found


def _timeless(value: object) -> object:
    """Parse JSON, also where it is a string in JSON, and leave out seconds."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return _timeless(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key != "seconds"}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def run(folder: Path, names: Sequence[str], *, rounds: int, say: Callable[[str], object]) -> None:
    """Do the rounds that have no record yet; a new folder is prepared first."""
    torch.set_num_threads(1)  # a process that has other threads cannot be forked
    for name in LOADED:
        importlib.import_module(name)
    folder = folder.resolve()
    if not (folder / "model").exists():
        small().save_pretrained(folder / "model")
        world = ["--work", f"{folder}/world", "--scale", ".0001", "--stage", "world"]
        attempt((TRAIN, world), folder / "world")
    for name in dict.fromkeys(("find", *names)):  # generate draws with what find found
        known, whole = folder / f"{name}.json", folder / "whole" / name
        if not known.exists():
            cost = attempt(_fresh(folder, name, whole), whole)
            write_atomic(known, json.dumps(cost).encode())
        _, seconds, changes = json.loads(known.read_text("utf-8"))
        for number in range(rounds if name in names else 0):
            record = folder / "rounds" / f"{name}-{number:03d}.json"
            draw, out = random.Random(f"{name} {number}"), folder / "run"
            when: dict[str, Any] = {"seconds": draw.uniform(0.01, seconds)}
            when = {"change": draw.randrange(changes)} if number % 2 else when
            if not record.exists():
                killed = attempt(_fresh(folder, name, out), out, **when)[0]
                again = attempt(commands(folder, out)[name], out)[0]
                told = {"command": name, **when, "killed": killed, "exit": again}
                told |= compared(contents(whole), contents(out))
                write_atomic(record, json.dumps(told).encode())
                say(json.dumps(told))


def _fresh(folder: Path, name: str, out: Path) -> tuple[str, list[str]]:
    """Empty the folder of a command, and give the command; training finds a world there."""
    shutil.rmtree(out, ignore_errors=True)
    if name == "training":
        shutil.copytree(folder / "world", out)
    out.mkdir(parents=True, exist_ok=True)
    return commands(folder, out)[name]


def compared(whole: dict[str, object], found: dict[str, object]) -> dict[str, list[str]]:
    """List the files that are missing or differ, and those too many."""
    differing = [name for name, data in whole.items() if found.get(name) != data]
    return {"differing": differing, "strays": sorted(found.keys() - whole.keys())}


def results(folder: Path) -> dict[str, Any]:
    """Count rounds, and those that ended equal to a run that nobody stopped."""
    rows, files = dict[str, Counter[str]](), set[str]()
    for path in sorted((folder / "rounds").glob("*.json")):
        told = json.loads(path.read_text("utf-8"))
        row = rows.setdefault(told["command"], Counter(killed=0, equal=0, differing=0, strays=0))
        row.update(rounds=1, killed=told["killed"] == -signal.SIGKILL, equal=not told["differing"])
        row.update(differing=bool(told["differing"]), strays=bool(told["strays"]))
        odd = told["differing"] + told["strays"]
        files |= {re.sub(r"\.[0-9a-f]{8}\.", ".*.", f"{told['command']}: {n}") for n in odd}
    total = Counter[str]()
    for row in rows.values():
        total.update(row)
    found = [{"command": name, **row} for name, row in rows.items()]
    return {**total, "commands": found, "files": sorted(files)}
