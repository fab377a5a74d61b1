"""``cones bench``: the measured figures of the docs, each made by one command.

A record holds the figures beside the settings, versions and machine they were measured with, and
is what ``docs/results`` keeps.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cones import record
from cones.cli import comparing, options, places, screen, studies

Record = Annotated[
    Path | None, typer.Option("--output", "-o", help="JSON file to write, settings included.")
]
EXAMPLES, WORK = Path("examples/photos"), Path("runs/bench")
Photos = Annotated[Path, typer.Option(help="Folder of subject folders, with subject.json each.")]
Subjects = Annotated[
    list[str] | None, typer.Option(help="Use only this subject; repeat for several.")
]
Seeds = Annotated[list[int], typer.Option("--seed", help="Seed of a search; repeat for several.")]
Pictures = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Draw pictures and have them judged.")
]
Work = Annotated[Path, typer.Option(help="Folder where finished cells are kept.")]
Docs = Annotated[
    Path | None,
    typer.Option(help="Folder of the docs, whose results and page are brought up to date."),
]
Updates = Annotated[int, typer.Option("--steps", min=0, help="Updates of the values.")]
Rate = Annotated[float, typer.Option(min=0, help="Learning rate of the values.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measurements of each figure.")]
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Measure what the docs quote, in one command each.",
)


@app.command("codec")
@screen.guarded
def codec(
    repeats: Repeats = 7,
    output: Record = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Size and speed of a concept file at the scale of Stable Diffusion 1.4.

    **Example:**  cones bench codec --json
    """
    from cones.bench.codec import codec_figures

    _measure(
        "codec",
        lambda: codec_figures(repeats=repeats),
        output=output,
        overwrite=overwrite,
        as_json=as_json,
    )


@app.command("swap")
@screen.guarded
def swap(
    repeats: Repeats = 5,
    output: Record = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Time and exactness of shutting and undoing, beside fusing a LoRA (extra 'bench').

    **Example:**  cones bench swap --json
    """
    from cones.bench.swap import swap_figures

    _measure(
        "swap",
        lambda: swap_figures(repeats=repeats),
        output=output,
        overwrite=overwrite,
        as_json=as_json,
    )


@app.command("scale")
@screen.guarded
def scale(
    repeats: Repeats = 2,
    output: Record = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """One search step on the full U-Net of Stable Diffusion 1.4, random weights (about 9 GB).

    **Example:**  cones bench scale --json
    """
    from cones.bench.scale import scale_figures

    _measure(
        "scale",
        lambda: scale_figures(steps=repeats),
        output=output,
        overwrite=overwrite,
        as_json=as_json,
    )


@app.command("search")
@screen.guarded
def search(
    photos: Photos = EXAMPLES,
    subject: Subjects = None,
    seeds: Seeds = (0, 1),
    pictures: Pictures = True,
    work: Work = WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Losses on held-out samples and pictures of every subject, beside both controls.

    A cell that was measured is kept in --work and not measured again.

    **Example:**  cones bench search --docs docs
    """
    from cones.bench.search import search_figures

    job = comparing.Job("search", search_figures, photos, subject, seeds, work, docs, more or [])
    extra = {"score": (lambda: comparing.scorer(model)) if pictures else lambda: None}
    comparing.compare(job, (model, device, dtype), extra, as_json=as_json)


@app.command("rules")
@screen.guarded
def rules(
    photos: Photos = EXAMPLES,
    subject: Subjects = None,
    seeds: Seeds = (0, 1, 2),
    work: Work = WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Which rule lowers the loss most on samples that no search used.

    **Example:**  cones bench rules --subject siamese_cat --subject old_jar
    """
    from cones.bench.rules import rules_figures

    job = comparing.Job("rules", rules_figures, photos, subject, seeds, work, docs, more or [])
    comparing.compare(job, (model, device, dtype), {}, as_json=as_json)


@app.command("strangers")
@screen.guarded
def strangers(
    photos: Photos = EXAMPLES,
    subject: Subjects = None,
    seeds: Seeds = (0, 1),
    work: Work = WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Whether a concept is its subject's own: each on the held-out samples of every subject.

    Uses the searches of **bench search** again where seeds and settings are the same.

    **Example:**  cones bench strangers --subject siamese_cat --subject old_jar
    """
    from cones.bench.strangers import strangers_figures

    job = comparing.Job(
        "strangers", strangers_figures, photos, subject, seeds, work, docs, more or []
    )
    comparing.compare(job, (model, device, dtype), {}, as_json=as_json)


app.command("tuning")(screen.guarded(studies.tuning))
app.command("sequential")(screen.guarded(studies.sequential))
app.command("sanity")(screen.guarded(studies.sanity))
app.command("side-by-side")(screen.guarded(studies.side_by_side))


@app.command("precision")
@screen.guarded
def precision(
    photos: Photos = EXAMPLES,
    subject: Subjects = None,
    seeds: Seeds = (0, 1),
    steps: Updates = 200,
    rate: Rate = 1e-3,
    pictures: Pictures = True,
    work: Work = WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Values of the neurons learnt in float32, float16, quaternary and binary, beside controls.

    Uses the searches of **bench search** again where seeds and settings are the same; the files
    with values stay in --work.

    **Example:**  cones bench precision --subject siamese_cat --seed 0
    """
    from cones.bench import precision_page as page
    from cones.bench.precision import Training, precision_figures

    job = comparing.Job(
        "precision", precision_figures, photos, subject, seeds, work, docs, more or []
    )
    extra = {
        "score": (lambda: comparing.scorer(model)) if pictures else lambda: None,
        "training": lambda: Training(steps, rate),
    }
    comparing.compare(
        job,
        (model, device, dtype),
        extra,
        as_json=as_json,
        pages=comparing.Pages(page.record, page.markdown),
    )


def _measure(
    name: str,
    figures: Callable[[], dict[str, Any]],
    *,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Check the output, measure, write the record and show it."""
    if output is not None:
        places.require_file(output, overwrite=overwrite)
    found = {"bench": name, **figures(), "machine": record.machine()}
    if output is not None:
        record.write_json(output, found)
    if as_json:
        screen.emit(found)
    else:
        _tell(found)


def _tell(figures: dict[str, Any], indent: int = 0) -> None:
    """Print nested figures, one on a line."""
    for name, value in figures.items():
        if isinstance(value, dict):
            screen.tell(f"{' ' * indent}{name}")
            _tell(value, indent + 2)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            screen.tell(f"{' ' * indent}{name:<16} {shown}")
