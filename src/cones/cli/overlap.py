"""``cones bench overlap``: what concepts share, beside chance and beside a second seed."""

from pathlib import Path
from typing import Annotated

import typer

from cones.cli import bench, options, places, screen, search

Docs = Annotated[
    Path | None,
    typer.Option(help="Folder whose results/overlap.json and overlap.md are written."),
]
Joint = Annotated[
    str, typer.Option(help="Pairs searched jointly: ring (each with the next), all or none.")
]


@screen.guarded
def overlap(
    photos: bench.Photos = bench.EXAMPLES,
    subject: bench.Subjects = None,
    seeds: bench.Seeds = (0, 1),
    joint: Joint = "ring",
    work: bench.Work = bench.WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Whether subjects have neurons of their own (Sec. 3.3, Fig. 4), beside chance.

    A finished search is kept in --work and not made again.

    **Example:**  cones bench overlap --subject siamese_cat --subject old_jar
    """
    from cones.bench.overlap import overlap_figures
    from cones.bench.overlap_page import markdown, record

    settings = search.settings_of({}, more or [])
    places.require_folder(work)
    if docs is not None:
        places.require_folder(docs)
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    hint = f"finished searches are kept in {work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        found = overlap_figures(
            pipeline,
            photos,
            work=work,
            subjects=subject,
            seeds=seeds,
            settings=settings,
            joint=joint,
            on_progress=lambda s: notify(s.stage, s.step - 1, s.steps, None),
        )
    if docs is not None:
        record(found, docs)
    if as_json:
        screen.emit(found)
    else:
        screen.tell(markdown(found))
