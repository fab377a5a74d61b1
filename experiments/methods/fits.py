"""Fit a method once: what it learns is kept in a folder whose name holds all it depends on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from filelock import FileLock

from cones import Settings
from cones.files import write_atomic
from experiments.lab import Lab
from experiments.methods.learnt import Fitted, read
from experiments.subjects import Example

DONE = "fit.json"


@dataclass(frozen=True)
class Task:
    """What is to be learnt."""

    examples: tuple[Example, ...]  # several are learnt together
    seed: int
    state: Path  # folder for what is needed to go on after an interruption
    going_on: bool = False  # keep that at the end: a larger budget goes on from there


@runtime_checkable
class Method(Protocol):
    """One way to learn a subject; a frozen dataclass whose fields are its settings."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str:
        """Give its name in METHODS."""

    @property
    def budget(self) -> int:
        """Say how many gradients it takes."""

    def fit(self, lab: Lab, task: Task) -> Fitted:
        """Learn; the pipeline is afterwards as before, bit for bit."""


def fitted(
    lab: Lab,
    method: Method,
    examples: Sequence[Example],
    *,
    seed: int = 0,
    going_on: bool = False,
) -> Fitted:
    """Fit a method, or read what it learnt before; a second process waits for the first."""
    name = "-".join([method.name, *(each.key for each in examples), str(seed)])
    effort = asdict(lab.effort)
    settings = asdict(method)
    if "settings" in settings:  # changes to the defaults: a search depends on these as well
        settings["settings"] = {**vars(Settings()), **settings["settings"]}
    key = {
        "model": lab.key,
        "photos": [(each.digest, each.identifier) for each in examples],
        "seed": seed,
        "effort": {n: effort[n] for n in ("gradients", "prior", "draws", "inference_steps")},
    }
    home = lab.work / "fits" / f"{name}-{digest({**key, 'settings': settings})}"
    del settings["budget"]  # training goes on from a smaller one
    state = lab.work / "states" / f"{name}-{digest({**key, 'settings': settings})}"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "lock"):
        if not (home / DONE).exists():
            learnt = method.fit(lab, Task(tuple(examples), seed, state, going_on))
            learnt.save(home)
            write_atomic(home / DONE, json.dumps({**key, "settings": settings}).encode())
    return read(home)


def digest(key: object) -> str:
    """Name a JSON value in twelve letters."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
