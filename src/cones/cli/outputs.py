"""Where results go: what exists is refused without ``--overwrite``, before any work starts."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from cones.cli import console
from cones.errors import ConesError


@dataclass(frozen=True)
class Saving:
    """How results are written and printed."""

    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is there.")] = False
    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False

    def require_free(self, paths: Iterable[Path]) -> None:
        """Refuse outputs that exist.

        Raises:
            ConesError: One exists and may not be replaced.
        """
        taken = [path for path in paths if path.exists()]
        if taken and not self.overwrite:
            raise ConesError(
                f"{taken[0]} exists; expected a new name; choose another or add --overwrite"
            )

    def require_file(self, path: Path) -> None:
        """Check that a file can be written, and make its folder.

        Raises:
            ConesError: It exists, is a folder, or its folder cannot be written.
        """
        if path.is_dir():
            raise ConesError(f"{path} is a folder; expected a file; add a name to the path")
        self.require_free([path])
        require_folder(path.parent)

    def tell(self, text: object, data: object) -> None:
        """Print a result for people, or as JSON for programs."""
        console.tell_json(data) if self.as_json else console.tell(text)


def require_folder(folder: Path) -> None:
    """Make a folder and check that files can be written to it.

    Raises:
        ConesError: Neither works.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(b"cones")
    except OSError as error:
        raise ConesError(
            f"cannot write to {folder} ({error.strerror}); expected a folder of yours with space "
            "left; choose another with -o"
        ) from error
