"""The main job from end to end: photos in, concept found, the subject drawn in new scenes.

The sheet shows the photos, then the same prompts and seeds drawn three times: by the untouched
model, with a random mask of the same density in every layer, and with the concept. Only if the
last row alone looks like the photos has anything been shown.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cones.bench.search import controls
from cones.concept import Concept
from cones.concept_file import save
from cones.find import Settings, Step, find
from cones.generate import generate
from cones.plot import Row, picture_sheet, save_picture
from cones.record import machine, write_json
from cones.subject import Subject

SCENES = (
    "a {} in the snow",
    "a {} in a desert",
    "a {} on the grass",
    "a {} on a road",
    "a {} in a city square",
    "a {} in a room",
)
CONCEPT_FILE, SHEET, RECORD = "concept.safetensors", "sheet.png", "demo.json"
STATE = "search.part"
LABELS = {
    "untouched": "untouched model",
    "random": "random mask, same density per layer",
    "shut": "concept neurons shut",
}


@dataclass(frozen=True)
class Drawing:
    """How the demo draws.

    Attributes:
        scenes: Prompts with ``{}`` in the place of the subject.
        count: Pictures of every scene.
        steps: Sampling steps.
        guidance: Scale of classifier-free guidance.
        seed: Of the first picture of every scene.
    """

    scenes: Sequence[str] = SCENES
    count: int = 2
    steps: int = 50
    guidance: float = 7.5
    seed: int = 0


def demo(
    pipeline: Any,
    subject: Subject,
    folder: Path,
    *,
    settings: Settings | None = None,
    drawing: Drawing | None = None,
    on_progress: Callable[[Step], object] | None = None,
) -> dict[str, Any]:
    """Find a subject, draw it beside both controls and write sheet, concept file and record.

    Args:
        pipeline: Text-to-image pipeline.
        subject: Photos, noun and identifier.
        folder: Where the files go; an interrupted search is kept there and resumed.
        settings: How to search.
        drawing: What to draw.
        on_progress: Called after every step.

    Returns:
        The record: certificate, file names and seconds.
    """
    settings, drawing = settings or Settings(), drawing or Drawing()
    notify = on_progress or (lambda step: None)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    concept = find(
        pipeline,
        subject,
        settings=settings,
        cache_dir=folder / STATE,
        state_dir=folder / STATE,
        on_progress=notify,
    )
    size = save(concept, folder / CONCEPT_FILE)
    found = time.monotonic()
    rows = [_photos(subject), *_drawn(pipeline, concept, subject, drawing, notify)]
    record = {
        "subject": subject.name,
        "settings": dict(concept.settings),
        "certificate": dict(concept.certificate),
        "density": concept.mask.density,
        "neurons": len(concept.mask),
        "file_bytes": size,
        "drawing": {**vars(drawing), "scenes": list(drawing.scenes)},
        "seconds": {
            "find": round(found - started, 1),
            "draw": round(time.monotonic() - found, 1),
        },
        "files": {"concept": CONCEPT_FILE, "sheet": SHEET},
        "machine": machine(),
    }
    title = f"{subject.name}: {len(concept.mask):,} concept neurons ({concept.mask.density:.2%})"
    save_picture(picture_sheet(rows, title=title), folder / SHEET, record)
    write_json(folder / RECORD, record)
    return record


def _drawn(
    pipeline: Any,
    concept: Concept,
    subject: Subject,
    drawing: Drawing,
    notify: Callable[[Step], object],
) -> list[Row]:
    """Draw all scenes three times with the same noise."""
    prompts = [scene.format(subject.name) for scene in drawing.scenes]
    shown = controls(concept, seed=concept.settings["seed"])
    total, rows = len(shown) * len(prompts) * drawing.count, []
    for number, (side, label) in enumerate(LABELS.items()):
        before = number * len(prompts) * drawing.count
        images = generate(
            pipeline,
            [shown[side]],
            prompts,
            seed=drawing.seed,
            steps=drawing.steps,
            guidance=drawing.guidance,
            count=drawing.count,
            on_progress=lambda done, _, before=before: notify(Step("draw", before + done, total)),
        )
        for k in range(drawing.count):
            said = f"{label}, seed {drawing.seed + k}"
            rows.append(Row(said, images[k :: drawing.count], prompts))
    return sorted(rows, key=lambda row: int(row.label.rsplit(" ", 1)[1]))


def _photos(subject: Subject) -> Row:
    pixels = (subject.images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return Row(f"photos of {subject.name}", [Image.fromarray(picture) for picture in pixels])
