"""An evaluation as one HTML page that needs no network: table, intervals, pictures, settings."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = {
    "text_alignment": "text alignment (CLIP)",
    "text_alignment_of_mean": "of the mean picture",
    "clip_score": "CLIPScore",
    "image_alignment": "image alignment (judge)",
    "clip_image_alignment": "image alignment (CLIP)",
    "diversity": "diversity",
    "present": "subjects shown",
    "all_present": "all shown",
    "recognition": "recognised",
    "template_diversity": "diversity, training prompt",
    "leak": "leak without identifier",
    "drift": "drift",
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; }
body { padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
small { color: #666; white-space: nowrap }
img { margin: 1px }
pre { background: #f6f6f6; padding: .8rem; overflow: auto; font-size: 12px }
.row { display: flex; align-items: center; gap: .6rem; overflow-x: auto }
.row b { flex: 0 0 9rem; font-weight: 500 }
"""
SHOWN = 8  # prompts with pictures in the page


def page(found: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Sequence[Path]]]) -> str:
    """Write the page.

    Args:
        found: What :meth:`cones.bench.evaluate.Evaluation.run` gives.
        pictures: Group -> method -> the first picture of every prompt.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>cones evaluate</title>",
        f"<style>{STYLE}</style><h1>Methods compared</h1>",
        f"<p>{_summary(found)}</p>",
    ]
    for size in dict.fromkeys(entry["subjects"] for entry in found["table"]):
        parts.append(f"<h2>{size} subject{'s' if size > 1 else ''}</h2>")
        entries = [e for e in found["table"] if e["subjects"] == size]
        parts.append(_table(entries, "scores"))
        changed = [e for e in entries if "change" in e]
        if changed:
            parts.append("<p>Change from the untouched model, paired.</p>")
            parts.append(_table(changed, "change"))
    parts.append("<h2>Pictures</h2><p>One picture a prompt, the same noise in a column.</p>")
    for group, methods in pictures.items():
        rows = "".join(_row(method, paths[:SHOWN]) for method, paths in methods.items())
        parts.append(f"<h3>{html.escape(group)}</h3>{rows}")
    settings = {name: found[name] for name in ("model", "plan", "settings", "machine")}
    said = html.escape(json.dumps(settings, indent=1))
    parts.append(f"<details><summary>Settings and machine</summary><pre>{said}</pre></details>")
    return "\n".join(parts) + "\n"


def _summary(found: Mapping[str, Any]) -> str:
    plan = found["plan"]
    missing = f" <b>{found['missing']} cells are missing.</b>" if found["missing"] else ""
    return (
        f"{len(plan['groups'])} groups of subjects, {len(plan['prompts'])} prompts with "
        f"{plan['images']} pictures each, seeds {', '.join(map(str, plan['seeds']))}. Means with "
        "95 % intervals of a bootstrap over groups and their seeds. Drift is how far pictures of "
        "unrelated prompts have moved from the untouched model's. Subjects shown: of a picture of "
        f"k subjects, the k that the judge finds strongest of {len(found['candidates'])} "
        f"candidates; the share that was asked for.{missing}"
    )


def _table(entries: Sequence[Mapping[str, Any]], part: str) -> str:
    names = [name for name in NAMES if any(name in entry[part] for entry in entries)]
    head = "".join(f"<th>{NAMES[name]}" for name in names)
    lines = [f"<table><tr><th>method{head}<th>file<th>seconds"]
    for entry in entries:
        cells = "".join(f"<td>{_interval(entry[part].get(name))}" for name in names)
        size = f"{entry['bytes'] / 1e6:.3f} MB" if "bytes" in entry else ""
        seconds = f"{entry['seconds']:.0f}" if "seconds" in entry else ""
        lines.append(f"<tr><td>{entry['method']}{cells}<td>{size}<td>{seconds}")
    return "".join(lines) + "</table>"


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.3f} <small>[{found['low']:.3f}, {found['high']:.3f}]</small>"


def _row(method: str, paths: Sequence[Path]) -> str:
    images = "".join(f'<img width=96 height=96 src="{_embedded(path)}">' for path in paths)
    return f"<div class=row><b>{html.escape(method)}</b>{images}</div>"


def _embedded(path: Path) -> str:
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize((96, 96), Image.Resampling.LANCZOS).save(stream, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
