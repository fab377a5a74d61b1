"""``cones bench tuning``, ``sequential``, ``sanity``, ``side-by-side``: made of evaluations."""

from collections.abc import Callable
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from cones import record
from cones.cli import evaluate, options, places, screen
from cones.errors import ConesError

TUNING = ("doll", "old_jar", "red_sneakers")  # never among the subjects that are compared
PAIRS = ("barrel+siamese_cat", "teddy_bear+oak_chair", "rabbit+toy_train")
Output = Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")]
Subjects = Annotated[
    list[str], typer.Option("--subject", help="Subject's folder name; repeat for several.")
]
Pairs = Annotated[
    list[str], typer.Option("--group", help="First and second subject joined by +; repeat.")
]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Method; repeat. All that can if left out.")
]


def tuning(
    output: Output,
    subject: Subjects = TUNING,
    method: Methods = None,
    preset: evaluate.Preset = "quick",
    photos: evaluate.Photos = Path("examples/photos"),
    seeds: evaluate.Seeds = (0,),
    images: evaluate.Images = None,
    change: evaluate.Change = None,
    work: evaluate.Work = Path("runs/evaluate"),
    model: options.Model = None,
    clip: evaluate.Clip = None,
    judge: evaluate.Judge = None,
    more: options.Set = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Choose the rates of the rival methods on tuning subjects, and publish the grid.

    Steps and whatever else is fixed come from the preset and --change; the prompts are none of
    those that methods are compared on. Subjects joined by + are learnt together.

    **Example:**  cones bench tuning --method lora -o out/tuning.json
    """
    from cones.bench.plan import TUNING_PROMPTS
    from cones.bench.tuning import grid_for, tuning_figures

    asked = evaluate.plan_of(preset, None, subject, seeds, images, change or [], more or [])
    grid = grid_for(asked.groups, method)
    plan = replace(asked, prompts=TUNING_PROMPTS)

    def measure(pipeline: Any, encoders: Any, notify: Any) -> dict[str, Any]:
        return tuning_figures(
            pipeline, photos, plan, encoders, work=work, grid=grid, on_progress=notify
        )

    found = _measured(measure, (model, clip, judge, device), output, work, overwrite=overwrite)
    for row in found["grid"]:
        rest = {name: value for name, value in row.items() if name not in ("method", "scores")}
        said = ", ".join(f"{name} {value}" for name, value in rest.items())
        best = found["best"][row["method"]]
        marked = "*" if all(best[name] == value for name, value in rest.items()) else " "
        scored = "  ".join(f"{name} {row['scores'][name]:.3f}" for name in found["weighed"])
        screen.tell(f"{marked} {row['method']:<18} {said:<12} {scored}")


def sequential(
    output: Output,
    group: Pairs = PAIRS,
    method: Methods = None,
    preset: evaluate.Preset = "quick",
    photos: evaluate.Photos = Path("examples/photos"),
    seeds: evaluate.Seeds = (0,),
    images: evaluate.Images = None,
    change: evaluate.Change = None,
    work: evaluate.Work = Path("runs/evaluate"),
    model: options.Model = None,
    clip: evaluate.Clip = None,
    judge: evaluate.Judge = None,
    more: options.Set = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Learn one subject after another and measure what is forgotten of the first (Fig. A9).

    **Example:**  cones bench sequential --group barrel+siamese_cat -o out/sequential.json
    """
    from cones.bench.plan import UNTOUCHED
    from cones.bench.sequential import SEQUENCES, SIDES, sequential_figures

    methods = list(method or (UNTOUCHED, *SEQUENCES))
    plan = evaluate.plan_of(preset, methods, group, seeds, images, change or [], more or [])

    def measure(pipeline: Any, encoders: Any, notify: Any) -> dict[str, Any]:
        return sequential_figures(pipeline, photos, plan, encoders, work=work, on_progress=notify)

    found = _measured(measure, (model, clip, judge, device), output, work, overwrite=overwrite)
    for name, sides in found["summary"].items():
        said = "  ".join(f"{side} {sides[side]['mean']:.3f}" for side in (*SIDES, "forgotten"))
        screen.tell(f"{name:<18} {said}")


def sanity(
    output: Output,
    subject: Subjects = ("barrel",),
    method: Methods = None,
    photos: evaluate.Photos = Path("examples/photos"),
    seeds: evaluate.Seeds = (0,),
    images: Annotated[int, typer.Option(min=2, help="Pictures of the training prompt.")] = 8,
    change: evaluate.Change = None,
    work: evaluate.Work = Path("runs/evaluate"),
    model: options.Model = None,
    clip: evaluate.Clip = None,
    judge: evaluate.Judge = None,
    more: options.Set = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train every method long on an easy subject, and not at all: is one beaten by a bug?

    Likeness of pictures of the training prompt to the photos, beside that of the photos to each
    other and of the photos after the autoencoder; the loss of the photos; and whether a method
    without training draws the untouched model's pictures exactly.

    **Example:**  cones bench sanity --method lora --change lora.steps=50 -o out/sanity.json
    """
    from cones.bench.plan import RANDOM, UNTOUCHED
    from cones.bench.sanity import LONG, sanity_figures

    methods = list(method or (UNTOUCHED, RANDOM, "cones", *LONG))
    chosen = [f"{n}.{k}={dumps(v)}" for n, each in LONG.items() for k, v in each.items()]
    settings = ["density=0.0701", "refine_steps=300", *(more or [])]
    plan = evaluate.plan_of(
        "mini", methods, subject, seeds, images, [*chosen, *(change or [])], settings
    )

    def measure(pipeline: Any, encoders: Any, notify: Any) -> dict[str, Any]:
        return sanity_figures(pipeline, photos, plan, encoders, work=work, on_progress=notify)

    found = _measured(measure, (model, clip, judge, device), output, work, overwrite=overwrite)
    sides = {"photos": found["photos"], "redrawn": found["redrawn"], **found["trained"]}
    for name, each in sides.items():
        same, losses = found["untrained"].get(name), found["losses"].get(name)
        said = "" if losses is None else f"   loss {sum(losses.values()) / len(losses):.4f}"
        said += "" if same is None else f"   untrained: {same:.0%} of pictures the same"
        screen.tell(f"{name:<18} {sum(each.values()) / len(each):.3f}{said}")


def side_by_side(
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")],
    group: evaluate.Groups = None,
    method: Methods = None,
    prompt: Annotated[
        str, typer.Option(help="With {} where the subjects are named.")
    ] = "a photo of a {} on the grass",
    images: Annotated[int, typer.Option(min=2, help="Pictures drawn of the prompt.")] = 20,
    keep: Annotated[int, typer.Option(min=1, help="Pictures shown of them.")] = 2,
    preset: evaluate.Preset = "mini",
    photos: evaluate.Photos = Path("examples/photos"),
    seeds: evaluate.Seeds = (0,),
    change: evaluate.Change = None,
    work: evaluate.Work = Path("runs/evaluate"),
    model: options.Model = None,
    clip: evaluate.Clip = None,
    judge: evaluate.Judge = None,
    more: options.Set = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Draw many pictures of a prompt by every method and show the best few (Fig. 7).

    A rule chooses, the same for all: the most alike, by the judge, among the half that follows
    the words better, by CLIP.

    **Example:**  cones bench side-by-side --group barrel --method cones -o out/best.png
    """
    from cones.bench.side_by_side import best_pictures
    from cones.plot import picture_sheet, save_picture

    if "{}" not in prompt or keep > images:
        raise ConesError(
            f"found --prompt {prompt!r}, --keep {keep} of --images {images}; expected {{}} in the "
            "prompt, and no more kept than drawn; change them"
        )
    asked = evaluate.plan_of(preset, method, group, seeds, images, change or [], more or [])
    plan = replace(asked, prompts=(prompt,))
    places.require_file(output, overwrite=overwrite)

    def measure(pipeline: Any, encoders: Any, notify: Any) -> list[Any]:
        return best_pictures(
            pipeline, photos, plan, encoders, work=work, keep=keep, on_progress=notify
        )

    rows = _ready(measure, (model, clip, judge, device), work)
    told = {"prompt": prompt, "groups": plan.groups, "methods": plan.methods}
    told |= {"images": images, "keep": keep, "seeds": list(seeds), "preset": preset}
    save_picture(picture_sheet(rows, title=prompt, side=96), output, told)
    screen.say(f"look at {output}")


def _measured(
    measure: Callable[..., dict[str, Any]],
    given: tuple[Any, ...],
    output: Path,
    work: Path,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Check, measure with bars, and write the record."""
    places.require_file(output, overwrite=overwrite)
    found = _ready(measure, given, work)
    record.write_json(output, found)
    return found


def _ready(measure: Callable[..., Any], given: tuple[Any, ...], work: Path) -> Any:
    """Load the model and the judges, and measure with bars."""
    places.require_folder(work)
    model, clip, judge, device = given
    encoders = evaluate.encoders_of(model, clip, judge)
    pipeline = places.pipeline(model, device=device, dtype=None, half=False)
    hint = f"what is done is kept in {work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        return measure(pipeline, encoders, lambda s: notify(s.stage, s.step, s.steps, s.loss))
