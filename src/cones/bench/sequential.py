"""Learn a second subject after the first, and see what is left of the first (App. C.1, Fig. A9).

The second subject is learnt by the model as the first has left it. What both have learnt is then
put in one inside the other. Pictures of the first subject are drawn before and after, from the
same prompts and noise; forgetting is what they lose in likeness to its photos.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cones.bench import sheets
from cones.bench.cells import Notify
from cones.bench.evaluate import Evaluation
from cones.bench.interval import interval
from cones.bench.ledger import digest
from cones.bench.plan import UNTOUCHED, Cell, Plan
from cones.bench.scores import Encoders, scores
from cones.bench.sheets import pixels
from cones.errors import SearchError
from cones.find import Step
from cones.methods import LEARNT, METHODS, Task
from cones.record import machine

SEQUENCES = ("cones", "custom-diffusion", "dreambooth", "shira")  # peft holds one LoRA of a name
SIDES = ("first alone", "second alone", "first of two", "second of two")


def sequential_figures(
    pipeline: Any,
    folder: Path | str,
    plan: Plan,
    encoders: Encoders,
    *,
    work: Path | str,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Learn the pairs of a plan one subject after the other.

    Args:
        pipeline: Text-to-image pipeline; as before afterwards.
        folder: Holds subject folders.
        plan: Its groups are pairs, first and second.
        encoders: Who judges.
        work: Keeps what is done; fits of ``cones evaluate`` at the same settings are used again.
        on_progress: Called before every pair.

    Returns:
        Plan, model, machine, a row per method, pair and seed with the judge's likeness on every
        side, and the summary of :func:`sequential_summary`.

    Raises:
        SearchError: A group is no pair, or a method cannot go on from what another has learnt.
    """
    wrong = set(plan.methods) - {UNTOUCHED, *SEQUENCES}
    if wrong or any(len(group) != 2 for group in plan.groups):
        raise SearchError(
            f"found methods {', '.join(plan.methods)} and groups {plan.groups}; expected pairs "
            f"and methods among {', '.join((UNTOUCHED, *SEQUENCES))}; choose these"
        )
    evaluation = Evaluation(pipeline, folder, plan, work, on_progress)
    rows = []
    for number, cell in enumerate(evaluation.cells):
        evaluation.notify(Step("pairs", number, len(evaluation.cells)))
        rows.append(
            {
                "method": cell.method,
                "group": [photos.name for photos in cell.group],
                "seed": cell.seed,
                "likeness": _likeness(evaluation, cell, encoders),
            }
        )
    told = evaluation.figures()
    return {
        **{name: told[name] for name in ("plan", "settings", "model")},
        "machine": machine(),
        "summary": sequential_summary(rows),
        "rows": rows,
    }


def sequential_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average by method, and give what the first subject lost (``forgotten``), paired."""
    found: dict[str, Any] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        groups: dict[str, list[Mapping[str, float]]] = {}
        for row in rows:
            if row["method"] == method:
                groups.setdefault("+".join(row["group"]), []).append(row["likeness"])
        found[method] = {
            side: interval({g: [each[side] for each in of] for g, of in groups.items()})
            for side in SIDES
        }
        found[method]["forgotten"] = interval(
            {g: [e["first alone"] - e["first of two"] for e in of] for g, of in groups.items()}
        )
    return found


def _likeness(evaluation: Evaluation, cell: Cell, encoders: Encoders) -> dict[str, float]:
    """Draw both subjects alone and after each other, and compare with their photos."""
    first, second = (
        Cell(cell.method, (photos,), (word,), cell.seed)
        for photos, word in zip(cell.group, cell.words, strict=True)
    )
    plan, found = evaluation.plan, {}
    learnt = [evaluation.fits.of(each) for each in (first, second)]
    for side, each, what in zip(SIDES, (first, second), learnt, strict=False):
        wanted = sheets.wanted(each, plan, evaluation.home(each))
        evaluation.draw(wanted, what)
        found[side] = _like(evaluation, each, wanted, encoders)
    tasks = evaluation.fits.tasks(second)  # the priors are the untouched model's
    home = evaluation.home(cell).with_name(
        f"sequential-{digest({'of': evaluation.home(cell).name})}"
    )
    with learnt[0].applied(evaluation.pipeline) if learnt[0] else nullcontext():
        after = None if learnt[1] is None else _second(evaluation, second, tasks, home)
        for side, each in zip(SIDES[2:], (first, second), strict=True):
            wanted = sheets.wanted(each, plan, home / side.replace(" ", "-"))
            evaluation.draw(wanted, after)
            found[side] = _like(evaluation, each, wanted, encoders)
    return found


def _second(evaluation: Evaluation, cell: Cell, tasks: Sequence[Task], home: Path) -> Any:
    """Learn the second subject from the weights as they are now, or read what was learnt."""
    folder = home / "learnt"
    if not (home / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        learnt = METHODS[cell.method](**evaluation.plan.changes.get(cell.method, {})).fit(
            evaluation.pipeline,
            tasks,
            seed=cell.seed,
            on_progress=evaluation.notify,
        )
        learnt.save(folder)
        (home / "done").touch()
    return LEARNT[cell.method].load(folder)


def _like(evaluation: Evaluation, cell: Cell, wanted: Any, encoders: Encoders) -> float:
    prompts = [prompt.format(cell.plain) for prompt in evaluation.plan.prompts]
    photos = [cell.group[0].subject(evaluation.size).images]
    return scores([pixels(sheet) for sheet in wanted], prompts, photos, encoders)[
        "image_alignment"
    ]
