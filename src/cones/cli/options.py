"""Options that several commands share, so that one word means one thing everywhere.

Options that belong together are a dataclass: a command names it as one parameter, and
:func:`command` puts its fields on the command line.
"""

import functools
import inspect
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_type_hints

from typer import Argument, Option, Typer, echo

import cones
from cones.cli import console
from cones.errors import ConesError
from cones.files import require_free

if TYPE_CHECKING:
    from cones.models import Pipeline

_Model = partial(Option, rich_help_panel="Model")
Out = partial(Option, "--output", "-o", show_default=False)
Prompt: TypeAlias = Annotated[str, Argument(help='What to draw: "a V* cat on a beach".')]
File: TypeAlias = Annotated[Path, Out(help="File to write.", dir_okay=False)]
Folder: TypeAlias = Annotated[Path, Out(help="Folder to write to.", file_okay=False)]
Number: TypeAlias = Annotated[int, Option("--num", "-n", min=1, help="Pictures of a prompt.")]
Seed: TypeAlias = Annotated[int, Option(min=0, help="Same seed, same result.")]
Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
Offload: TypeAlias = Literal["model", "sequential"]


@dataclass(frozen=True)
class Loading:
    """Which model, and how it is loaded."""

    model: Annotated[
        str | None, _Model(help="Hub name, folder or .safetensors file [the built-in model].")
    ] = None
    variant: Annotated[str | None, _Model(help="Kind of weight files: fp16.")] = None
    revision: Annotated[str | None, _Model(help="Branch, tag or commit on the hub.")] = None
    resolution: Annotated[int | None, _Model(help="Side in pixels [the model's own].")] = None
    device: Annotated[str | None, _Model(help="cuda, mps or cpu [the best there is].")] = None
    dtype: Annotated[Dtype | None, _Model(help="Precision [what suits the device].")] = None
    offload: Annotated[Offload | None, _Model(help="Keep idle parts in main memory.")] = None
    controlnet: Annotated[str | None, _Model(help="ControlNet: hub name, folder or file.")] = None
    lora: Annotated[
        list[str] | None,
        _Model(metavar="FILE[:WEIGHT]", help="LoRA: file, folder or hub name; repeat."),
    ] = None

    def given(self) -> dict[str, object]:
        """Collect what was said, as arguments of load_pipeline."""
        said = asdict(self).items()
        return {n: tuple(v) if isinstance(v, list) else v for n, v in said if v}

    def pipeline(self) -> "Pipeline":
        """Load the model, without the bars of other libraries."""
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        diffusers_logging.disable_progress_bar()  # the screen is for our own bars
        transformers_logging.disable_progress_bar()
        diffusers_logging.get_logger("diffusers.loaders.peft").setLevel(50)  # it raises as well
        return cones.load_pipeline(**asdict(self))


@dataclass(frozen=True)
class Concepts:
    """Which concept files, under which words and at which density."""

    files: Annotated[
        list[Path], Argument(help="Concept files, or hub:OWNER/NAME.", show_default=False)
    ]
    rename: Annotated[
        list[str] | None, Option("--as", help="Other word for the subject; once for each file.")
    ] = None
    density: Annotated[float | None, Option(help="A density that 'cones show' lists.")] = None

    @functools.cached_property
    def paths(self) -> list[Path]:
        """Say where the files are; those on the hub are fetched."""
        from cones.hub import local

        return [local(path) for path in self.files]

    def load(self) -> "list[cones.Concept]":
        """Read the files, and rename or thin them out if asked."""
        found = [cones.load(path) for path in self.paths]
        if self.rename and len(self.rename) != len(found):
            raise ConesError(
                f"found --as {len(self.rename)} times for {len(found)} concept files; "
                "expected it once for each file; add or remove some"
            )
        if self.rename:
            found = [each.renamed(word) for each, word in zip(found, self.rename, strict=True)]
        return found if self.density is None else [each.at(self.density) for each in found]


@dataclass(frozen=True)
class Chosen(Concepts):
    """Concepts that a prompt speaks of."""

    files: Annotated[
        list[Path],
        Option("--concept", "-c", help="File or hub:OWNER/NAME; repeat.", show_default=False),
    ]

    def load_for(self, *prompts: str) -> "list[cones.Concept]":
        """Read the files; warn if no prompt says one of their words."""
        found = self.load()
        for word in (word for concept in found for word in concept.words):
            if not any(word.identifier in prompt for prompt in prompts):
                console.warn(
                    f"the prompt does not say {word.identifier!r}: expect no such subject"
                )
        return found


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, in diffusers' words."""

    num_inference_steps: Annotated[
        int | None, Option(min=1, help="Steps of drawing [25, or 4 for turbo and LCM].")
    ] = None
    guidance_scale: Annotated[
        float | None, Option(help="How closely to follow the prompt [the model's own].")
    ] = None


@dataclass(frozen=True)
class Printing:
    """How results are printed."""

    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False

    def tell(self, text: object, data: object) -> None:
        """Print a result for people, or as JSON for programs."""
        echo(json.dumps(data, indent=1) if self.as_json else str(text))


@dataclass(frozen=True)
class Saving(Printing):
    """How results are written and printed."""

    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is there.")] = False

    def require(self, *paths: Path) -> None:
        """Refuse outputs that exist or cannot be written; make the folders that they are in."""
        for path in paths:
            require_free(path, replaceable=self.overwrite)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent) as trial:
                trial.write(b"cones")


def command(app: Typer, function: Callable[..., None]) -> None:
    """Add a function to the program under its own name; its errors become one line."""
    hints = get_type_hints(function, include_extras=True)
    groups = {
        n: kind for n, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)
    }
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        members = inspect.signature(groups[name]).parameters.values() if name in groups else ()
        shown += [each.replace(kind=each.KEYWORD_ONLY) for each in members or (parameter,)]

    @functools.wraps(function)
    def run(**given: object) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        with console.guarded():
            function(**given)

    run.__signature__ = inspect.Signature(shown)  # pyright: ignore
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    app.command(function.__name__)(run)
