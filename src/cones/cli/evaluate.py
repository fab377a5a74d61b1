"""``cones evaluate``: methods side by side on the same subjects, prompts, seeds and metrics."""

import json
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import options, places, screen, search
from cones.errors import ConesError

Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Method or control; repeat. All if left out.")
]
Groups = Annotated[
    list[str] | None,
    typer.Option("--group", help="Subjects learnt together, joined by +; repeat."),
]
Photos = Annotated[Path, typer.Option(help="Folder of subject folders, with subject.json each.")]
Seeds = Annotated[list[int], typer.Option("--seed", help="Of fits and pictures; repeat.")]
Images = Annotated[int | None, typer.Option(min=1, help="Pictures of every prompt.")]
Preset = Annotated[
    str,
    typer.Option(
        help="`quick`: minutes. `mini`: the docs'. `full`: the paper's. `cc101`, `dreambench`."
    ),
]
Work = Annotated[Path, typer.Option(help="Folder that keeps fits, pictures and scores.")]
Shard = Annotated[
    str | None,
    typer.Option(
        help="Do part K of N, as K/N from 0/N; processes share --work, the last one writes the "
        "report. Under `accelerate launch` each process takes its own part."
    ),
]
Change = Annotated[
    list[str] | None,
    typer.Option("--change", help="Setting of a method, e.g. lora.steps=200; repeat."),
]
Clip = Annotated[Path | None, typer.Option(help="CLIP folder; default: the built-in.")]
Judge = Annotated[
    Path | None,
    typer.Option(help="Folder of a DINO to judge pictures; default: EfficientNet-Lite0."),
]
Looks = Annotated[
    Path | None,
    typer.Option(help="Folders of other things of the nouns, to tell a subject from its like."),
]
QUICK_GROUPS = ("barrel", "siamese_cat", "barrel+siamese_cat")
# What `quick` leaves of every method: few steps, at the rate of a short training.
QUICK: dict[str, dict[str, Any]] = {
    "dreambooth": {"steps": 40, "rate": 1e-4, "batch": 4},
    "custom-diffusion": {"steps": 40, "rate": 1e-3, "sizes": False},
    "lora": {"steps": 40, "rate": 2e-3, "batch": 4},
    "shira": {"steps": 40, "rate": 1e-3},
    "textual-inversion": {"steps": 40},
}
QUICK_SEARCH = {"steps": 30, "refine_steps": 60, "prior_count": 16, "prior_steps": 15}
QUICK_SEARCH |= {"held_out": 32, "density": 0.0454}
# What `mini` gives every method: little training, at the rates and the density of
# docs/results/tuning.json.
MINI: dict[str, dict[str, Any]] = {
    "dreambooth": {"steps": 80, "rate": 1e-4, "batch": 4},
    "custom-diffusion": {"steps": 80, "rate": 1e-3, "sizes": False},
    "lora": {"steps": 80, "rate": 1e-3, "batch": 4},
    "shira": {"steps": 80, "rate": 1e-2},
    "textual-inversion": {"steps": 80, "rate": 5e-3},
}
# Its rate is that of docs/results/tuning_several.json: at Custom Diffusion's own, merging ruins
# the pictures. At this ridge captions change less by the merge than by either concept alone (1 %
# against 3 %), and weights five times less than at the original's none.
MINI["custom-diffusion-merged"] = {**MINI["custom-diffusion"], "rate": 1e-4, "ridge": 0.1}
MINI_SEARCH = {"steps": 40, "refine_steps": 80, "prior_count": 32, "prior_steps": 20}
MINI_SEARCH |= {"held_out": 128, "density": 0.005}
BRIEF = {"quick": (QUICK, QUICK_SEARCH), "mini": (MINI, MINI_SEARCH)}


@screen.guarded
def evaluate(
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML report to write.")],
    method: Methods = None,
    group: Groups = None,
    preset: Preset = "quick",
    photos: Photos = Path("examples/photos"),
    seeds: Seeds = (0,),
    images: Images = None,
    change: Change = None,
    work: Work = Path("runs/evaluate"),
    shard: Shard = None,
    record: Annotated[Path | None, typer.Option(help="JSON file to write too.")] = None,
    model: options.Model = None,
    clip: Clip = None,
    judge: Judge = None,
    looks: Looks = None,
    more: options.Set = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Compare Cones with its rivals and with controls, and write a report.

    Every method learns the same photos and draws the same prompts from the same noise; an
    independent judge and a CLIP score the pictures. What is done is kept in --work: the same
    command goes on from there. Changes of Cones' own search are given with --set.

    **Example:**  cones evaluate --method cones --method lora --group barrel -o report.html
    """
    from cones.bench import report
    from cones.bench.evaluate import Evaluation
    from cones.record import write_json, write_text

    for path in filter(None, (output, record)):
        places.require_file(path, overwrite=overwrite)
    places.require_folder(work)
    plan = plan_of(preset, method, group, seeds, images, change or [], more or [])
    part = _shard(shard)
    encoders = encoders_of(model, clip, judge)
    pipeline = places.pipeline(model, device=device, dtype=None, half=False)
    hint = f"what is done is kept in {work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        evaluation = Evaluation(
            pipeline,
            photos,
            plan,
            work,
            lambda s: notify(s.stage, s.step, s.steps, s.loss),
            looks=looks,
        )
        found = evaluation.run(encoders, shard=part)
    if part[1] > 1 and found["missing"]:
        screen.say(f"{found['missing']} cells are left to other processes; the last one reports")
        return
    write_text(output, report.page(found, evaluation.pictures()))
    if record is not None:
        write_json(record, found)
    if as_json:
        screen.emit({**found, "report": str(output)})
        return
    for entry in found["table"]:
        screen.tell(_line(entry))
    screen.say(f"look at {output}")


def encoders_of(model: str | None, clip: Path | None, judge: Path | None) -> Any:
    """Load who judges: the independent judge or a DINO, and a CLIP."""
    from cones.bench.scores import Encoders
    from cones.encoders import load_clip, load_dino
    from cones.metrics import load_judge
    from cones.mini import weights_path

    if model is not None and clip is None:
        raise ConesError(
            f"found --model {model} without --clip; expected a folder with the CLIP to score its "
            "pictures, such as a copy of openai/clip-vit-large-patch14; add --clip"
        )
    judges = load_judge() if judge is None else load_dino(judge)
    return Encoders(judges, load_clip(clip or weights_path() / "clip"))


def plan_of(
    preset: str,
    methods: list[str] | None,
    groups: list[str] | None,
    seeds: Sequence[int],
    images: int | None,
    change: list[str],
    more: list[str],
) -> Any:
    """Put presets, options and changes together."""
    from cones.bench.plan import CONTROLS, PRESETS, Plan
    from cones.methods import METHODS

    if preset not in PRESETS:
        raise ConesError(f"found --preset {preset}; expected {', '.join(PRESETS)}; choose one")
    brief, brief_search = BRIEF.get(preset, ({}, {}))
    changes = {name: dict(each) for name, each in brief.items()}
    for text in change:
        name, value = _changed(text, METHODS)
        changes.setdefault(name[0], {})[name[1]] = value
    settings = search.settings_of(dict(brief_search), more)
    for name, prompts in (("cones", "noun"), ("cones-scenes", "scenes")):
        chosen = replace(settings, prior_prompts=prompts)
        changes[name] = {**changes.get(name, {}), "settings": chosen}
    drawn = {**PRESETS[preset], **({"images": images} if images else {})}
    return Plan(
        methods=tuple(methods or (*CONTROLS, *METHODS)),
        groups=tuple(tuple(name.split("+")) for name in groups or QUICK_GROUPS),
        seeds=tuple(seeds),
        changes=changes,
        prior=replace(settings, prior_prompts="noun"),
        **drawn,
    )


def _changed(text: str, methods: dict[str, Any]) -> tuple[tuple[str, str], Any]:
    """Read ``lora.steps=200``."""
    left, _, value = text.partition("=")
    method, _, name = left.partition(".")
    known = {each.name for each in fields(methods[method])} if method in methods else set()
    try:
        if name in known:
            return (method, name), json.loads(value)
    except ValueError:
        pass
    raise ConesError(
        f"found --change {text!r}; expected a number, true or false for a setting of a method, "
        f"such as lora.steps=200; methods: {', '.join(methods)}"
    )


def _shard(text: str | None) -> tuple[int, int]:
    """Read ``0/2``; by default this process' place among those of ``accelerate launch``."""
    text = text or f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise ConesError(f"found --shard {text!r}; expected K/N with K below N, such as 0/2")
    return int(number), int(count)


def _line(entry: dict[str, Any]) -> str:
    """Show one row of the table."""
    scores = "  ".join(f"{n} {found['mean']:.3f}" for n, found in entry["scores"].items())
    return f"{entry['method']:<18} {entry['subjects']} subject(s)  {scores}"
