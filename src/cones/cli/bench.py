"""``cones bench``: the measured figures of the docs, each made by one command.

A record holds the figures beside the settings, versions and machine they were measured with, and
is what ``docs/results`` keeps.
"""

import json
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import options, places, screen

Record = Annotated[
    Path | None, typer.Option("--output", "-o", help="JSON file to write, settings included.")
]
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
    record = {"bench": name, **figures(), "machine": machine()}
    if output is not None:
        unfinished = output.with_name(f".{output.name}.part")
        unfinished.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        unfinished.replace(output)
    if as_json:
        screen.emit(record)
    else:
        _tell(record)


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that figures depend on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "gpu": device,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("cones", "torch", "diffusers")},
    }


def _tell(record: dict[str, Any], indent: int = 0) -> None:
    """Print nested figures, one on a line."""
    for name, value in record.items():
        if isinstance(value, dict):
            screen.tell(f"{' ' * indent}{name}")
            _tell(value, indent + 2)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            screen.tell(f"{' ' * indent}{name:<16} {shown}")
