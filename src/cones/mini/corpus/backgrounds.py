"""Backgrounds of the corpus: crops of panoramas and painted places, each with its row."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from cones.mini.corpus.painted import PAINTERS
from cones.mini.corpus.panoramas import crop, developed

SIDE = 128  # pixels
CROPS, PAINTINGS = 20, 16  # of every panorama, of every painted place
FIELD_OF_VIEW = (60.0, 85.0)
PITCH = (-16.0, -4.0)  # a little downwards: more ground than sky
# Panorama -> what it shows, how a caption says it, and how bright its pictures are.
PLACES: dict[str, tuple[str, str, float]] = {
    "apartment": ("room", "an empty living room", 0.4),
    "bridge": ("walkway", "a glass walkway", 0.35),
    "city": ("street", "a city street", 0.35),
    "dawn": ("desert", "a rocky desert at dawn", 0.3),
    "esplanade": ("mall", "a shopping mall", 0.3),
    "forest": ("forest", "a pine forest", 0.3),
    "hall": ("hall", "a large hall", 0.35),
    "lab": ("laboratory", "a green laboratory", 0.35),
    "lobby": ("lobby", "a lobby with a wooden floor", 0.35),
    "night": ("night field", "a field at night", 0.06),
    "park": ("park", "a green park", 0.35),
    "sky": ("sea", "a cloudy sky over calm water", 0.4),
    "studio": ("studio", "a photo studio", 0.3),
    "sunrise": ("meadow", "a meadow at sunrise", 0.3),
    "sunset": ("square", "a city square by the sea", 0.35),
    "venice": ("seaside", "a stone quay by the sea", 0.35),
    "warehouse": ("warehouse", "a warehouse", 0.35),
    "workshop": ("workshop", "a factory workshop", 0.35),
}


def crops(
    panoramas: Mapping[str, Float[np.ndarray, "h w 3"]], seed: int, *, count: int = CROPS
) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """Cut ``count`` pictures from every panorama whose place is known, all around."""
    for number, (name, (label, caption, brightness)) in enumerate(PLACES.items()):
        if name not in panoramas:
            continue
        rng = np.random.default_rng((seed, number))
        for k in range(count):
            azimuth = 360 * (k + rng.random()) / count
            pitch, field = rng.uniform(*PITCH), rng.uniform(*FIELD_OF_VIEW)
            linear, horizon = crop(panoramas[name], azimuth, pitch, field, SIDE)
            row = _row(f"hdr_{name}_{k:02d}", label, caption, "hdr") | {
                "source": f"pmndrs-assets hdri/{name}",
                "creator": "Poly Haven",
                **_ground(horizon, max(0.55, horizon + 0.16), 0.96),
            }
            yield row, Image.fromarray(developed(linear, brightness), "RGB")


def paintings(
    seed: int, *, count: int = PAINTINGS
) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """Paint ``count`` pictures of every painted place."""
    for number, (label, painter) in enumerate(PAINTERS.items()):
        for k in range(count):
            picture, horizon, ground = painter(np.random.default_rng((seed, 99, number, k)), SIDE)
            name = f"painted_{label.replace(' ', '_')}_{k:02d}"
            row = _row(name, label, f"a {label}", "procedural") | {
                "source": "procedural",
                "creator": "made for this corpus",
                **_ground(horizon, ground, 0.97),
            }
            yield row, Image.fromarray((255 * picture).round().astype(np.uint8), "RGB")


def _row(name: str, label: str, caption: str, kind: str) -> dict[str, Any]:
    words = {"file": f"{name}.webp", "label": label, "caption": caption, "kind": kind}
    return words | {"licence": "CC0 1.0", "split": "train"}


def _ground(horizon: float, start: float, stop: float) -> dict[str, float]:
    spans = {"horizon": horizon, "ground_from": start, "ground_to": stop}
    return {key: round(float(value), 3) for key, value in spans.items()}
