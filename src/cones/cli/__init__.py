"""The command line: one command is one call into the library.

Commands parse, check that what they would write can be written, call and report. Bars, notices
and errors go to the error stream, results to the output, so that ``--json`` can be piped. Torch
is imported inside the commands, which keeps ``cones --help`` fast.
"""

import typer

from cones.cli import (
    algebra,
    atlas,
    attend,
    bench,
    conflicts,
    erasing,
    evaluate,
    files,
    overlap,
    pictures,
    search,
    style,
    together,
    ui,
)

app = typer.Typer(
    name="cones",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try it without anything else: cones demo",
)
app.command("find")(search.find)
app.command("generate")(pictures.generate)
app.command("show")(files.show)
app.command("attend")(attend.attend)
app.command("atlas")(atlas.atlas)
app.command("combine")(files.combine)
app.command("conflicts")(conflicts.conflicts)
app.command("refine")(together.refine)
app.command("export")(files.export)
app.command("evaluate")(evaluate.evaluate)
app.command("ui")(ui.ui)
app.command("demo")(pictures.demo)
bench.app.command("overlap")(overlap.overlap)
bench.app.command("attention")(attend.measure)
bench.app.command("conflicts")(conflicts.compared)
bench.app.command("erase")(erasing.erase)
bench.app.command("algebra")(algebra.algebra)
bench.app.command("style")(style.style)
app.add_typer(bench.app, name="bench")


@app.callback()
def _cones() -> None:
    """Find the concept neurons of a subject in a diffusion model, shut them, draw the subject.

    A few photos and a noun go in (**find**), a small concept file comes out. With it the
    model draws the subject wherever a prompt puts it (**generate**).
    """


def main() -> None:
    """Run the command line."""
    app()
