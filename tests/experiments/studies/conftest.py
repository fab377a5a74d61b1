"""A tiny laboratory whose methods learn nothing: each gives a random mask at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from cones import Word
from experiments.lab import Lab
from experiments.methods import METHODS, Shut, Task
from experiments.studies import shared
from experiments.study import Options, Study
from fakes import tiny_concept
from tiny_lab import tiny_lab

KEPT = ("untouched", "random", "cones", "cones-collaborative", "cones-joint", "dreambooth")
LEFT_OUT = {*METHODS} - {*KEPT}


@dataclass(frozen=True)
class Fake:
    name: str
    budget: int = 8
    settings: Mapping[str, object] = field(default_factory=dict)
    photos: int | None = None
    masked: bool = False

    def fit(self, lab: Lab, task: Task) -> Shut:
        concepts = []
        for k, each in enumerate(task.examples):
            found = tiny_concept(lab.pipeline, seed=task.seed + k, density=0.05)
            word = Word(each.identifier, each.noun, lab.start(each))
            concepts.append(replace(found, words=(word,)))
        phrases = tuple(each.phrase for each in task.examples)
        return Shut(tuple(concepts), phrases, lab.effort.budget(self.budget))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return tiny_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture
def options(lab: Lab) -> Options:
    return Options(("a_cat", "a_dog"), ("a_jar",), 1, quick=True)


@pytest.fixture
def shortened() -> Callable[[Study], Study]:
    """Leave some methods out of a study."""

    def without(study: Study) -> Study:
        def cases(options: Options) -> list[dict]:
            return [c for c in study.cases(options) if c.get("method") not in LEFT_OUT]

        return replace(study, cases=cases)

    return without


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let methods learn nothing, and measure no drift."""
    for name in KEPT:
        monkeypatch.setitem(METHODS, name, partial(Fake, name))
    names = ("gain_seen", "gain_new", "gain_others", "drift")
    monkeypatch.setattr(shared, "drift", lambda *given, **named: dict.fromkeys(names, 0.01))
