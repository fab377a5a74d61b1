"""The command line: a command parses, calls one function of the library and prints.

What a command shows goes through :mod:`cones.cli.console`, what several commands take is in
:mod:`cones.cli.options`. Torch is loaded inside the commands, so ``--help`` is fast.
"""

import os
from collections.abc import Callable
from typing import Annotated

import typer

import cones
from cones.cli.files import atlas, combine, export, library, push, show, ui
from cones.cli.find import demo, find
from cones.cli.options import command
from cones.cli.pictures import attend, compare, generate

COMMANDS: tuple[Callable[..., None], ...] = (
    find, show, generate, compare, combine, attend, library, atlas, export, push, ui, demo,
)  # fmt: skip

for name in ("TRANSFORMERS", "DIFFUSERS"):  # read when they are loaded; errors still show
    os.environ.setdefault(f"{name}_VERBOSITY", "error")
app = typer.Typer(
    name="cones",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: cones demo",
)
for function in COMMANDS:
    command(app, function)


@app.callback(invoke_without_command=True)
def _cones(
    version: Annotated[bool, typer.Option("--version", help="Version.")] = False,
) -> None:
    """Find the concept neurons of a subject in a diffusion model, and shut them.

    A few photos and a noun go in (**find**), a small concept file comes out. With it the model
    draws the subject wherever a prompt puts it (**generate**).
    """
    if version:
        typer.echo(f"cones {cones.__version__}")
        raise typer.Exit


main = app
