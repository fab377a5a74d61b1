"""Measure the built-in model: ``python -m pretraining.quality --work DIR``.

Pictures are composed whose captions training never saw. The model draws these captions, and the
examiner says of the drawn pictures, and of the composed ones sent through the autoencoder
(``limit``: what a perfect U-Net would reach), whether they show what the captions say. Writes
docs/results/model.json and two sheets.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from diffusers import StableDiffusionPipeline

from cones.drawing import sheet
from experiments.metrics.examiner import Examiner, Seen, load_examiner
from pretraining.denoiser import drawn_by
from pretraining.examiner import SIDES, Row, answers, judged, through, unseen
from pretraining.loop import OUTPUT, Work, console, pixels_of
from pretraining.text import said
from pretraining.world.captions import PLACES, prompt
from pretraining.world.colours import COLOURS
from pretraining.world.looks import NAMED
from pretraining.world.scenes import NOUNS


def kind_of(row: Row) -> str:
    """Say which figure a picture serves; of pairs only those side by side, and plain light."""
    things = row["things"]
    if row["light"] or (len(things) > 1 and row["relation"] not in SIDES):
        return ""
    return "two" if len(things) > 1 else "names" if things[0]["name"] else "single"


def alike(rows: Sequence[Row], seen: Sequence[Seen]) -> float:
    """Return how often a picture shows an individual's noun and both its colours."""
    pairs = zip(rows, seen, strict=True)
    table = pd.DataFrame([answers(row["things"], "", None, one) for row, one in pairs])
    return round(float(table[["noun", "main", "second"]].all(axis=1).mean()), 4)


def figures(
    pipeline: StableDiffusionPipeline, judge: Examiner, work: Work, prompts: int
) -> dict[str, Any]:
    """Measure everything; of every caption of one thing two pictures are drawn."""

    def read(captions: Sequence[str], **options: float) -> list[Seen]:
        return judge.read(drawn_by(pipeline, captions, **options))

    trained = {row["caption"] for row in work.pictures.rows}
    found: dict[str, Any] = {}
    limit: dict[str, Any] = {}
    for figure, kind, most in (
        ("single", "single", prompts),
        ("two", "two", prompts // 2),
        ("held_out_pairs", "single", prompts // 4),
        ("names", "names", NAMED),
    ):
        store = unseen(work, held_out=figure == "held_out_pairs")
        fit = [i for i, row in enumerate(store.rows) if kind_of(row) == kind]
        new = [i for i in fit if kind == "names" or store.rows[i]["caption"] not in trained][:most]
        rows = [store.rows[i] for i in new]
        captions, composed = [row["caption"] for row in rows], pixels_of(store, new)
        shown = judge.see(through(pipeline.vae, composed))
        if kind == "names":
            bare = [row["caption"].replace(f"{row['things'][0]['name']} ", "") for row in rows]
            found[figure] = {"own": alike(rows, read(captions)), "other": alike(rows, read(bare))}
            limit[figure] = {"own": alike(rows, shown)}
            continue
        asked = [(*said(row), row["relation"]) for row in rows]
        limit[figure] = judged(asked, shown)
        copies = 2 if figure == "single" else 1
        found[figure] = judged(copies * asked, read(copies * captions))
        console.print(figure, found[figure], "limit", limit[figure])
        if figure == "single":
            found["prompts"], half = len(rows), len(rows) // 2
            found["guidance_7_5"] = judged(asked[:half], read(captions[:half], guidance_scale=7.5))
    return found | {"limit": limit, "examiner": dict(judge.accuracy)}


def sheets(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Draw 16 nouns x 8 places and 13 colours x 8 nouns, as JPEG: below 1 MB each."""
    places, nouns = [p for p in PLACES if p not in ("plain", "lake")], NOUNS[4:12]
    told = {
        "nouns": (NOUNS, places, [prompt(noun, place) for noun in NOUNS for place in places]),
        "colours": (COLOURS, nouns, [prompt(n, "plain", main) for main in COLOURS for n in nouns]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (rows, columns, prompts) in told.items():
        drawn = drawn_by(pipeline, prompts)
        page = sheet({row: drawn[8 * k : 8 * k + 8] for k, row in enumerate(rows)}, columns)
        page.save(folder / f"model_{name}.jpg", quality=90)


def main(
    work: Annotated[Path, typer.Option(help="The folder of its training.")],
    model: Annotated[Path, typer.Option(help="The model's folder.")] = OUTPUT,
    output: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/results/model.json"),
    pictures: Annotated[Path, typer.Option(help="Folder of the sheets.")] = Path("docs"),
    prompts: Annotated[int, typer.Option(min=1, help="Captions of one thing.")] = 512,
) -> None:
    """Draw, read, and write down how often the model does what it is told."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    found = figures(pipeline, load_examiner(), Work(work), prompts)
    log = json.loads((work / "denoiser" / "log.json").read_text())
    found |= {"samples_trained": log["samples"], "unet_seconds": log["seconds"]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    sheets(pipeline, pictures)


if __name__ == "__main__":
    typer.run(main)
