"""``cones bench overlap``: what concepts share, beside chance and beside a second seed."""

from pathlib import Path
from typing import Annotated

import typer

from cones.cli import bench, comparing, options, screen

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
    from cones.bench import overlap_page as page
    from cones.bench.overlap import overlap_figures

    job = comparing.Job("overlap", overlap_figures, photos, subject, seeds, work, docs, more or [])
    comparing.compare(
        job,
        (model, device, dtype),
        {"joint": lambda: joint},
        as_json=as_json,
        pages=comparing.Pages(page.record, page.markdown),
    )
