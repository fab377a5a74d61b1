"""Run the steps of a search so that it can be stopped and resumed to the same bits.

A step has two halves: ``measure`` only reads and may take long, ``absorb`` writes and is short.
What is saved is always the state between two steps. Losses are drawn from the number of the step,
so step and accumulators are all there is to save.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cones.errors import SearchError
from cones.files import alone, replace_when_done
from cones.models.base import Progress

State: TypeAlias = dict[str, Tensor]
Found = TypeVar("Found")
SAVE_SECONDS = 60.0


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Keeper:
    """Keeps a search's state in a folder, and tells its progress after every step."""

    folder: Path | None = None  # for this very search alone; None keeps nothing
    progress: Progress = silent
    saves: bool = True  # False: only reads, beside a process that saves

    def run(
        self,
        stage: str,
        steps: int,
        *,
        state: State,
        measure: Callable[[int], Found],
        absorb: Callable[[int, Found], object],
    ) -> None:
        """Take what is left of ``steps`` steps, which change the tensors of ``state`` in place.

        Saves once a minute, at the end, and when anything stops it between two steps.
        """
        step = begun = self._load(stage, state)
        saved, whole = time.monotonic(), True
        try:
            while step < steps:
                started, found = time.monotonic(), measure(step)
                whole = False
                absorb(step, found)
                step, whole = step + 1, True
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(stage, state, step)
                    saved = time.monotonic()
                note = f"{found}, {time.monotonic() - started:.2g} s a step"
                del found  # a gradient is large
                self.progress(stage, step, steps, note)
        finally:
            if whole and step > begun:
                self._save(stage, state, step)

    def forget(self) -> None:
        """Delete what was saved: the search is over."""
        for path in self.folder.glob("*.safetensors") if self.folder and self.saves else ():
            path.unlink(missing_ok=True)

    def _save(self, stage: str, state: State, step: int) -> None:
        if self.folder is None or not self.saves:
            return
        path = self.folder / f"{stage}.safetensors"
        try:
            with replace_when_done(path) as partial:
                save_file({n: t.cpu() for n, t in state.items()}, partial, {"step": str(step)})
        except (OSError, SafetensorError) as error:
            raise SearchError(
                f"cannot save the search to {path} ({error}); expected a folder of yours with "
                "space left; free some and run the same again: what was saved before is kept"
            ) from error

    def _load(self, stage: str, state: State) -> int:
        """Fill tensors with what was saved, and give its step; 0 if nothing was."""
        path = None if self.folder is None else self.folder / f"{stage}.safetensors"
        if path is None or not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as file:
                for name, tensor in state.items():
                    tensor.copy_(file.get_tensor(name))
                return int((file.metadata() or {})["step"])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise SearchError(
                f"cannot resume from {path} ({error}); expected the state of this search; "
                "delete it and search anew"
            ) from error


ALONE = Keeper()


@contextmanager
def owned(folder: Path, progress: Progress = silent) -> Iterator[Keeper]:
    """Hold a folder for this process alone, or name the one that has it in a FileError."""
    with alone(folder / "lock"):
        yield Keeper(folder, progress)
