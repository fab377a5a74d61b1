"""``cones combine``: several concept files in one."""

import operator
from functools import reduce
from typing import Annotated, Literal

from typer import Option

from cones.cli import options, outputs
from cones.cli.show import block, describe
from cones.errors import ConesError

How = Annotated[
    Literal["union", "intersection", "difference"],
    Option(help="Keep what any file has, what all have, or what only the first has."),
]
OPERATORS = {"union": operator.or_, "intersection": operator.and_, "difference": operator.sub}


def combine(
    *,
    files: options.Files,
    output: options.File,
    how: How = "union",
    rename: options.Rename = None,
    density: options.Density = None,
    saving: outputs.Saving,
) -> None:
    """Join concepts in one file, or keep what they share, or what only the first has.

    **Example:**  cones combine cat.safetensors jar.safetensors -o both.safetensors
    """
    saving.require_file(output)
    if len(files) < 2:
        raise ConesError(f"found one file, {files[0]}; expected two or more; name another")
    joined = reduce(OPERATORS[how], options.load_concepts(files, rename, density))
    joined.save(output)
    saving.tell(block(output, joined), describe(output, joined))
