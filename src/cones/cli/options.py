"""Options that several commands share, so that one word means one thing everywhere.

Options that belong together are a dataclass: a command names it as one parameter, and
:func:`command` puts its fields on the command line.
"""

import functools
import inspect
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_type_hints

from typer import Argument, Option, Typer, echo

from cones.cli import console
from cones.errors import ConesError

if TYPE_CHECKING:
    from cones import Concept
    from cones.models import Pipeline

_Model = partial(Option, rich_help_panel="Model")
_Output = partial(Option, "--output", "-o", show_default=False)
Prompt: TypeAlias = Annotated[str, Argument(help='What to draw: "a V* cat on a beach".')]
Files: TypeAlias = Annotated[list[Path], Argument(help="Concept files.", show_default=False)]
File: TypeAlias = Annotated[Path, _Output(help="File to write.")]
Folder: TypeAlias = Annotated[Path, _Output(help="Folder to write to.")]
Number: TypeAlias = Annotated[int, Option("--num", "-n", min=1, help="Number of pictures.")]
Seed: TypeAlias = Annotated[int, Option(min=0, help="Same seed, same result.")]
Density: TypeAlias = Annotated[float | None, Option(help="A density that 'cones show' lists.")]
Rename: TypeAlias = Annotated[
    list[str] | None, Option("--as", help="Other word for the subject; once for each file.")
]
Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
Offload: TypeAlias = Literal["model", "sequential"]


@dataclass(frozen=True)
class Loading:
    """Which model, and how it is loaded."""

    model: Annotated[
        str | None, _Model(help="Hub name, folder or .safetensors file; built-in if left out.")
    ] = None
    variant: Annotated[str | None, _Model(help="Kind of weight files: fp16.")] = None
    revision: Annotated[str | None, _Model(help="Branch, tag or commit on the hub.")] = None
    resolution: Annotated[int | None, _Model(help="Pixels a side; the model's own.")] = None
    device: Annotated[str | None, _Model(help="cuda, mps or cpu; the best there is.")] = None
    dtype: Annotated[Dtype | None, _Model(help="Precision; what suits the device.")] = None
    offload: Annotated[Offload | None, _Model(help="Keep idle parts in main memory.")] = None

    def pipeline(self, concepts: "Sequence[Concept]" = ()) -> "Pipeline":
        """Load the model; warn if it is a fine-tune of the one that concepts were found on."""
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        import cones
        from cones.fingerprint import Fingerprint
        from cones.models import model_for

        diffusers_logging.disable_progress_bar()  # the screen is for our own bars
        transformers_logging.disable_progress_bar()
        model = model_for(cones.load_pipeline(**asdict(self)))
        base = Fingerprint.of(model.weights(), model.name) if concepts else None
        if any(base and each.base.compare(base) == "fine-tune" for each in concepts):
            console.warn(
                f"{model.name} is a fine-tune of {concepts[0].base.model}, where the concept was "
                "found; the subject may look otherwise"
            )
        return model.pipeline

    @property
    def words(self) -> tuple[str, ...]:
        """The options that load this model again in another command."""
        given = asdict(self).items()
        return tuple(w for name, value in given if value for w in (f"--{name}", str(value)))


@dataclass(frozen=True)
class Chosen:
    """Which concepts, under which words and at which density."""

    concept: Annotated[
        list[Path], Option("--concept", "-c", help="Concept file; repeat.", show_default=False)
    ]
    rename: Rename = None
    density: Density = None

    def load(self, *prompts: str) -> "list[Concept]":
        """Read the files; warn if no prompt says one of their words."""
        found = load_concepts(self.concept, self.rename, self.density)
        for word in (word for concept in found for word in concept.words):
            if not any(word.identifier in prompt for prompt in prompts):
                console.warn(
                    f"the prompt does not say {word.identifier!r}: expect no such subject"
                )
        return found


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, in diffusers' words."""

    num_inference_steps: Annotated[int | None, Option(min=1, help="The model's own: 25.")] = None
    guidance_scale: Annotated[float | None, Option(help="The model's own if left out.")] = None


@dataclass(frozen=True)
class Saving:
    """How results are written and printed."""

    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is there.")] = False
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False

    def require_free(self, *paths: Path) -> None:
        """Refuse outputs that exist."""
        taken = [path for path in paths if path.exists()]
        if taken and not self.overwrite:
            raise ConesError(
                f"{taken[0]} exists; expected a new name; choose another or add --overwrite"
            )

    def require_file(self, path: Path) -> None:
        """Check that a file can be written, and make its folder."""
        if path.is_dir():
            raise ConesError(f"{path} is a folder; expected a file; add a name to the path")
        self.require_free(path)
        require_folder(path.parent)

    def tell(self, text: object, data: object) -> None:
        """Print a result for people, or as JSON for programs."""
        echo(json.dumps(data, indent=1) if self.as_json else str(text))


def require_folder(folder: Path) -> None:
    """Make a folder and check that files can be written to it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as trial:
        trial.write(b"cones")


def load_concepts(
    paths: list[Path], rename: list[str] | None = None, density: float | None = None
) -> "list[Concept]":
    """Read concept files, and rename or thin them out if asked."""
    import cones

    if rename and len(rename) != len(paths):
        raise ConesError(
            f"found --as {len(rename)} times for {len(paths)} concept files; "
            "expected it once for each file; add or remove some"
        )
    found = [cones.load(path) for path in paths]
    if rename:
        found = [concept.renamed(word) for concept, word in zip(found, rename, strict=True)]
    return found if density is None else [concept.at(density) for concept in found]


def command(app: Typer, function: Callable[..., None]) -> None:
    """Add a function to the program under its own name; its errors become one line."""
    hints = get_type_hints(function, include_extras=True)
    groups = {n: k for n, k in hints.items() if isinstance(k, type) and is_dataclass(k)}
    shown: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        members = inspect.signature(groups[name]).parameters if name in groups else None
        own = get_type_hints(groups[name], include_extras=True) if name in groups else hints
        for each in (members or {name: parameter}).values():
            keyword = inspect.Parameter.KEYWORD_ONLY
            shown[each.name] = each.replace(kind=keyword, annotation=own[each.name])

    @functools.wraps(function)
    def run(**given: object) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        with console.guarded():
            function(**given)

    run.__signature__ = inspect.Signature(list(shown.values()))  # pyright: ignore
    run.__annotations__ = {name: parameter.annotation for name, parameter in shown.items()}
    app.command(function.__name__)(run)
