"""A tiny random model on disk, photos, and concepts made for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from cones import Concept, Mask, Word
from cones.cli import app
from cones.fingerprint import Fingerprint
from cones.models import model_for
from cones.models.words import vectors
from fakes import tiny_pipeline

Run = Callable[..., Result]
Make = Callable[[Path, str, str, int], Path]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(("red", "orange", "brown", "tan")):
        Image.new("RGB", (48, 40), colour).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="session")
def make() -> Make:
    """Write a concept of the tiny model without a search."""
    pipeline: Any = tiny_pipeline()
    weights = model_for(pipeline).weights()

    def call(path: Path, identifier: str, noun: str, seed: int) -> Path:
        draw = torch.Generator().manual_seed(seed)
        ranks = {n: torch.rand(w.shape, generator=draw) for n, w in weights.items()}
        levels = tuple(Mask.where({n: r < d for n, r in ranks.items()}) for d in (0.01, 0.05))
        word = Word(identifier, noun, vectors(pipeline, "sks"))
        Concept(levels, (word,), Fingerprint.of(weights, "tiny")).save(path)
        return path

    return call


@pytest.fixture
def cat(make: Make, tmp_path: Path) -> Path:
    return make(tmp_path / "my cat.safetensors", "V*", "cat", 0)


@pytest.fixture
def dog(make: Make, tmp_path: Path) -> Path:
    return make(tmp_path / "dog.safetensors", "V*", "dog", 2)


@pytest.fixture
def jar(make: Make, tmp_path: Path) -> Path:
    return make(tmp_path / "jar.safetensors", "V2*", "jar", 1)


@pytest.fixture
def run() -> Run:
    """Run a command; it has to succeed unless another exit code is expected."""

    def call(*words: object, code: int | None = 0) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in words])
        allowed = (0, 3) if code is None else (code,)  # None: the verdict does not matter
        assert result.exit_code in allowed, result.output
        return result

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., None]:
    """Run a command that must end with one error line that holds ``match``, and no traceback."""

    def call(*words: object, match: str) -> None:
        result = run(*words, code=1)
        assert "Traceback" not in result.output
        assert result.stderr.count("error: ") == 1
        assert match in result.stderr.partition("error: ")[2]

    return call
