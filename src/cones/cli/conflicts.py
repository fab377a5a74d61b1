"""``cones conflicts`` and ``cones bench conflicts``: what joining concepts will do to them."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import bench, comparing, options, pictures, places, screen, search
from cones.errors import ConesError

Files = Annotated[list[Path], typer.Argument(help="Concept files, two or more.")]
Folders = Annotated[
    list[Path] | None,
    typer.Option("--photos", help="Photos of each, in the order of the files, to measure too."),
]
Samples = Annotated[int, typer.Option(min=2, help="Held-out samples of a measured loss.")]


@screen.guarded
def conflicts(
    files: Files,
    photos: Folders = None,
    samples: Samples = 64,
    model: options.Model = None,
    density: options.Density = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Predict, and with --photos measure, what concepts will do to each other when joined.

    The prediction needs the files alone: what they share beside chance, and the mean share of
    each neuron's row that the other shuts too; docs/conflicts.md says what that is worth.

    **Example:**  cones conflicts cat.safetensors jar.safetensors --photos cat/ --photos jar/
    """
    from cones.concept import require_shut

    concepts = pictures.load_concepts(files, density)
    require_shut(concepts)
    _require_pairs(files, photos)
    for other in concepts[1:]:
        concepts[0].require_base(other.base)
    harm = [{} for _ in files]
    if photos:
        pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
        harm = _measured(pipeline, concepts, photos, samples, seed)
    rows = [_row(files, concepts, harm, pair) for pair in combinations(range(len(files)), 2)]
    if as_json:
        screen.emit({"files": [str(file) for file in files], "pairs": rows})
        return
    for row in rows:
        _tell(row)


def _require_pairs(files: list[Path], photos: list[Path] | None) -> None:
    if len(files) < 2:
        raise ConesError("found one concept file; expected two or more; name another")
    if photos and len(photos) != len(files):
        raise ConesError(
            f"found {len(photos)} --photos for {len(files)} concept files; expected one folder "
            "per file, in the same order; name them all or none"
        )


def _measured(
    pipeline: Any, concepts: list[Any], photos: list[Path], samples: int, seed: int
) -> list[dict[str, Any]]:
    """Measure what every other concept does to each subject."""
    from cones.backbones import backbone_for
    from cones.conflicts import measured, subject_loss
    from cones.generate import verdicts

    verdicts(pipeline, concepts)
    found = []
    with screen.bars() as notify:
        for k, (folder, own) in enumerate(zip(photos, concepts, strict=True)):
            notify("conflicts", k, len(concepts), None)
            subject = search.read_subject(pipeline, [folder], own.noun, own.identifier)
            live = backbone_for(pipeline).weights("both")
            others = {str(j): c.mask for j, c in enumerate(concepts) if j != k}
            loss = subject_loss(pipeline, subject, own)
            weights = {name: live[name] for name in own.mask}
            found.append(measured(loss, weights, own.mask, others, samples=samples, seed=seed))
        notify("conflicts", len(concepts), len(concepts), None)
    return found


def _row(
    files: list[Path], concepts: list[Any], harm: list[dict[str, Any]], pair: tuple[int, int]
) -> dict[str, Any]:
    """Put prediction and measurement of one pair together."""
    from cones.conflicts import predicted

    i, j = pair
    row = {"files": [str(files[i]), str(files[j])]}
    row |= predicted(concepts[i].mask, concepts[j].mask)
    for side, own, other in (("on_first", i, j), ("on_second", j, i)):
        if harm[own]:
            losses = {key: harm[own][key] for key in ("untouched", "alone")}
            row[side] = {**row[side], **losses, **harm[own]["with"][str(other)]}
    return row


def _tell(row: Mapping[str, Any]) -> None:
    first, second = row["files"]
    screen.tell(
        f"{first} and {second} share {row['shared']:,} neurons, {row['jaccard']:.2%} of the "
        f"union; by chance {row['expected']:,.0f}, {row['jaccard_by_chance']:.2%}"
    )
    for side, own, other in (("on_first", first, second), ("on_second", second, first)):
        found = row[side]
        screen.tell(
            f"  predicted: {other} shuts another {found['rows']:.2%} of the rows of {own} "
            f"({found['layers']:.2%} of its layers)"
        )
        if "union" in found:
            screen.tell(
                f"  measured: loss of {own} untouched {found['untouched']:.4f}, its own neurons "
                f"{found['alone']:.4f}, both {found['union']:.4f}, its own and random "
                f"{found['random']:.4f} (both - random: ± {found['error']:.4f})"
            )


@screen.guarded
def compared(
    photos: bench.Photos = bench.EXAMPLES,
    subject: bench.Subjects = None,
    samples: Samples = 64,
    work: bench.Work = bench.WORK,
    docs: bench.Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Whether the conflict of two concepts can be predicted from their files, over all pairs.

    Uses the searches of **bench search** again where the settings are the same.

    **Example:**  cones bench conflicts --docs docs
    """
    from cones.bench import conflicts_page as page
    from cones.bench.conflicts import conflicts_figures

    job = comparing.Job(
        "conflicts", conflicts_figures, photos, subject, None, work, docs, more or []
    )
    comparing.compare(
        job,
        (model, device, dtype),
        {"samples": lambda: samples},
        as_json=as_json,
        pages=comparing.Pages(page.record, page.markdown),
    )
