"""Measure the built-in model: ``python -m pretraining.quality [--work DIR]``.

Prompts that no training caption equals are drawn, the examiner reads the pictures, and its own
rate on composed pictures sent through the autoencoder stands beside every figure: the most that a
perfect U-Net could reach. Writes docs/results/model.json and two sheets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import StableDiffusionPipeline
from rich.console import Console

from experiments.metrics.examiner import Examiner, Seen, load_examiner
from pretraining import examiner, save
from pretraining.world.captions import PATTERNS, PLACES, phrase, prompt, sentence
from pretraining.world.colours import COLOURS
from pretraining.world.looks import NAMED, Look, draw_look, named_look
from pretraining.world.scenes import NOUNS, held_out_pair, held_out_place
from pretraining.world.stores import PictureStore

WEIGHTS = Path("src/cones/models/builtin/weights")
console = Console(stderr=True)


@dataclass(frozen=True)
class Asked:
    """A prompt and what its picture must show; empty words were not said."""

    prompt: str
    place: str
    nouns: tuple[str, ...]
    mains: tuple[str, ...]
    second: str = ""
    pattern: str = ""


def single(count: int, *, held_out: bool = False, first: int = examiner.UNSEEN) -> list[Asked]:
    """Ask for one thing with the colours and patterns of looks that were never rendered.

    Half the prompts say the main colour, a quarter the second too, a quarter the pattern too.
    """
    asked, places = [], list(PLACES)
    for k in range(count):
        look = draw_look(first + k)
        allowed = [p for p in places if held_out_place(look.noun, p) == held_out]
        place = allowed[(k // len(NOUNS)) % len(allowed)]
        second = look.second if (k // len(NOUNS)) % 4 >= 2 else ""
        told = (k // len(NOUNS)) % 4 == 3 and look.pattern in PATTERNS
        pattern = look.pattern if told else ""
        text = prompt(look.noun, place, look.main, second or None, pattern or None)
        asked.append(Asked(text, place, (look.noun,), (look.main,), second, pattern))
    return asked


def double(count: int) -> list[Asked]:
    """Ask for two things of different colours side by side: the first is on the left."""
    asked, rng = [], np.random.default_rng(12)
    while len(asked) < count:
        a, b = (draw_look(examiner.UNSEEN + int(rng.integers(10**6))) for _ in range(2))
        place = str(rng.choice(list(PLACES)))
        unseen = held_out_pair(a.noun, b.noun) or any(
            held_out_place(look.noun, place) for look in (a, b)
        )
        if unseen or a.noun == b.noun or a.main == b.main:
            continue
        things = [phrase(look.noun, main=look.main) for look in (a, b)]
        text = sentence(things, relation="to the left of", place=place)
        asked.append(Asked(text, place, (a.noun, b.noun), (a.main, b.main)))
    return asked


def read(
    pipeline: StableDiffusionPipeline,
    judge: Examiner,
    prompts: Sequence[str],
    guidance_scale: float = 3.0,
) -> list[Seen]:
    """Draw a picture of every prompt and read it."""
    seeds = range(len(prompts))
    return judge.see(save.draw(pipeline, prompts, seeds, guidance_scale=guidance_scale))


def mean(values: Sequence[bool]) -> float:
    """Return a share with three digits."""
    return round(sum(values) / max(1, len(values)), 3)


def singles(asked: Sequence[Asked], seen: Sequence[Seen]) -> dict[str, float]:
    """Judge pictures of one thing by their clearest thing."""
    pairs = [(ask, see.things[0], see.place) for ask, see in zip(asked, seen, strict=True)]
    return {
        "noun": mean([thing.noun == ask.nouns[0] for ask, thing, _ in pairs]),
        "colour": mean([thing.main == ask.mains[0] for ask, thing, _ in pairs]),
        "second": mean([thing.second == ask.second for ask, thing, _ in pairs if ask.second]),
        "pattern": mean([thing.pattern == ask.pattern for ask, thing, _ in pairs if ask.pattern]),
        "place": mean([place == ask.place for ask, _, place in pairs]),
        "one_thing": mean([see.count == 1 for see in seen]),
    }


def doubles(asked: Sequence[Asked], seen: Sequence[Seen]) -> dict[str, float]:
    """Judge pictures of two things; sides and colours are those of pictures with both nouns."""
    both, colours, sides = [], [], []
    for ask, see in zip(asked, seen, strict=True):
        known = {thing.noun: thing for thing in reversed(see.things)}
        both.append(all(noun in known for noun in ask.nouns))
        if both[-1]:
            a, b = (known[noun] for noun in ask.nouns)
            colours.append((a.main, b.main) == ask.mains)
            sides.append(a.box[0] + a.box[2] < b.box[0] + b.box[2])
    return {"both_nouns": mean(both), "both_colours": mean(colours), "side": mean(sides)}


def is_like(seen: Seen, look: Look) -> bool:
    """Tell whether a picture shows an individual's noun and both its colours."""
    thing = seen.things[0]
    return (thing.noun, thing.main, thing.second) == (look.noun, look.main, look.second)


def names(pipeline: StableDiffusionPipeline, judge: Examiner) -> dict[str, float]:
    """Compare what a name brings with what the bare noun shows of the same individual."""
    looks = [named_look(index) for index in range(NAMED)]
    own = read(pipeline, judge, [prompt(look.noun, name=look.name) for look in looks])
    other = read(pipeline, judge, [prompt(look.noun) for look in looks])
    return {
        "own": mean([is_like(seen, look) for seen, look in zip(own, looks, strict=True)]),
        "other": mean([is_like(seen, look) for seen, look in zip(other, looks, strict=True)]),
    }


def figures(
    pipeline: StableDiffusionPipeline, judge: Examiner, count: int, said: set[str]
) -> dict[str, Any]:
    """Measure everything; ``count`` prompts of one thing, two pictures each."""
    asked = [ask for ask in single(2 * count) if ask.prompt not in said][:count]
    twice = [*asked, *asked]
    rows: dict[str, Any] = {"prompts": len(asked)}
    rows["single"] = singles(twice, read(pipeline, judge, [ask.prompt for ask in twice]))
    console.print(rows)
    two = double(count // 2)
    rows["two"] = doubles(two, read(pipeline, judge, [ask.prompt for ask in two]))
    apart = single(count // 4, held_out=True)
    rows["held_out_pairs"] = singles(apart, read(pipeline, judge, [a.prompt for a in apart]))
    strong = asked[: count // 2]
    found = read(pipeline, judge, [ask.prompt for ask in strong], 7.5)
    rows["guidance_7_5"] = singles(strong, found)
    rows["names"] = names(pipeline, judge)
    rows["examiner"] = dict(judge.accuracy)
    return rows


def sheets(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Draw 16 nouns x 8 places, and 13 colours x 8 nouns."""
    places = [place for place in PLACES if place not in ("plain", "lake")]
    told = {
        "nouns": [prompt(noun, place) for noun in NOUNS for place in places],
        "colours": [prompt(noun, "plain", main) for main in COLOURS for noun in NOUNS[4:12]],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in told.items():
        pictures = save.draw(pipeline, prompts, range(len(prompts)))
        save.sheet(pictures, 8).save(folder / f"model_{name}.png")


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = WEIGHTS,
    work: Annotated[Path | None, typer.Option(help="Its training's folder, for the cost.")] = None,
    output: Annotated[Path, typer.Option(help="The figures.")] = Path("docs/results/model.json"),
    pictures: Annotated[Path, typer.Option(help="Folder of the sheets.")] = Path("docs"),
    prompts: Annotated[int, typer.Option(min=64, help="Prompts of one thing.")] = 512,
) -> None:
    """Draw, read, and write down how often the model does what it is told."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    cost: Mapping[str, Any] = {}
    said: set[str] = set()
    if work:
        log = json.loads((work / "denoiser" / "log.json").read_text())
        cost = {"samples_trained": log["samples"], "unet_seconds": log["seconds"]}
        said = {row["caption"] for row in PictureStore.open(work / "pictures").rows}
    found = figures(pipeline, load_examiner(), prompts, said) | dict(cost)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=2) + "\n")
    sheets(pipeline, pictures)
    console.print(found)


if __name__ == "__main__":
    typer.run(main)
