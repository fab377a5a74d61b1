"""``cones bench algebra``: concepts without what others hold, and what two of a noun share."""

from pathlib import Path
from typing import Annotated

import typer

from cones.cli import bench, comparing, options, places, screen, search

Looks = Annotated[
    Path | None, typer.Option(help="Folder of folders with other looks of the nouns.")
]
Nouns = Annotated[
    list[str] | None, typer.Option("--noun", help="Noun whose looks are searched; repeat.")
]
NOUNS = ("barrel", "chair", "guitar")
Samples = Annotated[int, typer.Option(min=2, help="Held-out samples of each half of a loss.")]


@screen.guarded
def algebra(
    photos: bench.Photos = bench.EXAMPLES,
    subject: bench.Subjects = None,
    looks: Looks = None,
    noun: Nouns = None,
    samples: Samples = 64,
    pictures: bench.Pictures = True,
    work: bench.Work = bench.WORK,
    docs: bench.Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Whether a concept is better without what other subjects, or looks of its noun, hold too.

    Uses the searches of **bench search** again where the settings are the same.

    **Example:**  cones bench algebra --subject barrel --subject old_jar --no-pictures
    """
    from cones.bench.algebra import Rule, algebra_figures
    from cones.bench.algebra_page import markdown, record

    settings = search.settings_of({}, more or [])
    for folder in (work, *([docs] if docs is not None else [])):
        places.require_folder(folder)
    score = comparing.scorer(model) if pictures else None
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    hint = f"finished cells are kept in {work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        found = algebra_figures(
            pipeline,
            photos,
            work=work,
            score=score,
            looks=looks,
            nouns=noun or (NOUNS if looks is not None else ()),
            subjects=subject,
            rule=Rule(samples=samples),
            settings=settings,
            on_progress=lambda s: notify(s.stage, s.step - 1, s.steps, None),
        )
    if docs is not None:
        record(found, docs)
    if as_json:
        screen.emit(found)
    else:
        screen.tell(markdown(found))
