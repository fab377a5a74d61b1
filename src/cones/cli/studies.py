"""``cones bench tuning``, ``sequential`` and ``sanity``: studies made of evaluations."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cones import record
from cones.cli import evaluate, options, places, screen

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
    those that methods are compared on.

    **Example:**  cones bench tuning --method lora -o out/tuning.json
    """
    from cones.bench.plan import TUNING_PROMPTS
    from cones.bench.tuning import GRID, tuning_figures

    grid = {name: GRID[name] for name in method or GRID if name in GRID}
    asked = evaluate.plan_of(preset, None, subject, seeds, images, change or [], more or [])
    plan = replace(asked, prompts=TUNING_PROMPTS)

    def measure(pipeline: Any, encoders: Any, notify: Any) -> dict[str, Any]:
        return tuning_figures(
            pipeline, photos, plan, encoders, work=work, grid=grid, on_progress=notify
        )

    found = _measured(measure, (model, clip, judge, device), output, work, overwrite=overwrite)
    for row in found["grid"]:
        rest = {name: value for name, value in row.items() if name not in ("method", "scores")}
        said = ", ".join(f"{name} {value:g}" for name, value in rest.items())
        marked = "*" if rest == found["best"][row["method"]] else " "
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
    other; and whether a method without training draws the untouched model's pictures exactly.

    **Example:**  cones bench sanity --method lora --change lora.steps=50 -o out/sanity.json
    """
    from cones.bench.plan import RANDOM, UNTOUCHED
    from cones.bench.sanity import LONG, sanity_figures

    methods = list(method or (UNTOUCHED, RANDOM, "cones", *LONG))
    chosen = [f"{n}.{k}={v}" for n, each in LONG.items() for k, v in each.items()]
    settings = ["density=0.0701", "refine_steps=300", *(more or [])]
    plan = evaluate.plan_of(
        "mini", methods, subject, seeds, images, [*chosen, *(change or [])], settings
    )

    def measure(pipeline: Any, encoders: Any, notify: Any) -> dict[str, Any]:
        return sanity_figures(pipeline, photos, plan, encoders, work=work, on_progress=notify)

    found = _measured(measure, (model, clip, judge, device), output, work, overwrite=overwrite)
    for name, each in (("photos", found["photos"]), *found["trained"].items()):
        same = found["untrained"].get(name)
        said = "" if same is None else f"   untrained: {same:.0%} of pictures the same"
        screen.tell(f"{name:<18} {sum(each.values()) / len(each):.3f}{said}")


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
    places.require_folder(work)
    model, clip, judge, device = given
    encoders = evaluate.encoders_of(model, clip, judge)
    pipeline = places.pipeline(model, device=device, dtype=None, half=False)
    hint = f"what is done is kept in {work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        found = measure(pipeline, encoders, lambda s: notify(s.stage, s.step, s.steps, s.loss))
    record.write_json(output, found)
    return found
