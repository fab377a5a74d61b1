"""``cones bench style``: whether a concept can be a style (App. C.2, Fig. A10)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import bench, comparing, options, screen

Styles = Annotated[
    Path, typer.Option(help="Folder of style folders, each with held-out drawings.")
]
Images = Annotated[int, typer.Option(min=1, max=64, help="Pictures of every thing and side.")]
Docs = Annotated[
    Path | None,
    typer.Option(help="Folder whose results/style.json, style.md and .png are written."),
]


@screen.guarded
def style(
    styles: Styles = Path("examples/styles"),
    photos: bench.Photos = bench.EXAMPLES,
    subject: bench.Subjects = None,
    seeds: bench.Seeds = (0, 1),
    images: Images = 2,
    work: bench.Work = bench.WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Learn "V* emoji" from five drawings of one set and draw other things in its style.

    Every thing is compared with the set's own drawing of it, which no search has seen.
    Untouched model, random mask and another style's concept draw from the same noise.

    **Example:**  cones bench style --subject openmoji --seed 0 --set density=0.005
    """
    from cones.bench import style_page as page
    from cones.bench.style import Drawing, style_figures

    job = comparing.Job("style", style_figures, styles, subject, seeds, work, docs, more or [])
    comparing.compare(
        job,
        (model, device, dtype),
        {
            "photos": lambda: photos,
            "eyes": lambda: _eyes(model),
            "drawing": lambda: Drawing(images),
        },
        as_json=as_json,
        pages=comparing.Pages(
            lambda found, docs: page.record(found, docs, styles, work), page.markdown
        ),
    )


def _eyes(model: str | None) -> Any:
    """Give the judge, and the built-in model's CLIP where that model draws."""
    from cones.bench.style_scores import Eyes

    score = comparing.scorer(model)
    return Eyes(score.judge, score.clip)
