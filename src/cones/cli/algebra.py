"""``cones bench algebra``: concepts without what others hold, and what two of a noun share."""

from pathlib import Path
from typing import Annotated

import typer

from cones.cli import bench, comparing, options, screen

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
    from cones.bench import algebra_page as page
    from cones.bench.algebra import Rule, algebra_figures

    job = comparing.Job("algebra", algebra_figures, photos, subject, None, work, docs, more or [])
    extra = {
        "score": (lambda: comparing.scorer(model)) if pictures else lambda: None,
        "looks": lambda: looks,
        "nouns": lambda: noun or (NOUNS if looks is not None else ()),
        "rule": lambda: Rule(samples=samples),
    }
    comparing.compare(
        job,
        (model, device, dtype),
        extra,
        as_json=as_json,
        pages=comparing.Pages(page.record, page.markdown),
    )
