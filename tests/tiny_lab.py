"""A laboratory of seconds: the tiny random pipeline, drawn photos, an examiner that is told."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.lab import Effort, Lab
from experiments.metrics.examiner import Examiner, Seen, SeenThing
from experiments.subjects import load_examples
from fakes import tiny_pipeline

TINY = Effort(prompts=2, pictures=1, inference_steps=2, gradients=3, prior=2, draws=4)
NOUNS = ("cat", "dog", "jar")


class FakeExaminer(Examiner):
    """Reads the same in every picture."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.accuracy = seen, {"noun": 0.98}

    def read(self, pictures: Sequence[Image.Image]) -> list[Seen]:
        return [self.seen] * len(pictures)


def thing(noun: str, main: str, second: str, pattern: str) -> SeenThing:
    return SeenThing(noun, main, second, pattern, box=(0, 0, 9, 9))


def photos(root: Path) -> Path:
    """Draw noise for photos: three subjects, each with new views and other individuals."""
    for k, noun in enumerate(NOUNS):
        draw = np.random.default_rng(k)
        for part in ("", "kept", "other", "stranger"):
            folder = root / f"a_{noun}" / part
            (folder / "masks").mkdir(parents=True)
            rows = []
            for name in ("00.png", "01.png"):
                Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / name)
                Image.new("1", (32, 32), 1).save(folder / "masks" / name)
                row = {"file": name, "place": "snow", "noun": noun, "main": "red"}
                rows.append(row | {"second": "blue", "pattern": "stripes"})
            labels = {"subject": f"a_{noun}", "noun": noun, "photos": rows, "tuning": k == 2}
            (folder / "labels.json").write_text(json.dumps(labels))
    return root


def tiny_lab(folder: Path, *, gradients: int | None = 3) -> Lab:
    seen = Seen("snow", (thing("cat", "red", "blue", "stripes"),))
    effort = Effort(2, 1, 2, gradients, 2, 4)
    examples = load_examples(photos(folder / "photos"))
    return Lab(tiny_pipeline(), folder / "work", examples, effort, FakeExaminer(seen))
