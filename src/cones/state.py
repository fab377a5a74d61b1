"""What a search must remember to be interrupted and resumed to the same bits.

An engine is a generator: each ``next`` is one gradient, after which ``Progress.state`` may be
saved. The loss of step ``k`` is drawn from ``k`` alone (``losses(k)``), so step counter and
accumulators are all there is. Losses cannot be recorded in a file: resuming with other losses
goes unnoticed.
"""

import json
import os
import zlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cones.errors import SearchError

Result = TypeVar("Result")
Setting = str | int | float | bool | None

_FORMAT = "cones-search-1"


@dataclass
class SearchState:
    """Step counter and accumulators of one search, in place, as far as it got.

    Attributes:
        engine: Which search this belongs to.
        settings: What the search was started with; a resumed one must be given the same.
        slots: Accumulators by their role, then by parameter name.
        step: Number of gradients taken.
    """

    engine: str
    settings: dict[str, Setting]
    slots: dict[str, dict[str, Tensor]]
    step: int = 0

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file, replacing ``path`` only when complete.

        Raises:
            SearchError: It cannot be written, on a full disk for example. ``path`` is as before.
        """
        path = Path(path)
        tensors = {
            f"{slot}/{name}": tensor.detach().cpu().contiguous()
            for slot, named in self.slots.items()
            for name, tensor in named.items()
        }
        record = {
            "engine": self.engine,
            "step": self.step,
            "settings": self.settings,
            "tensors": {key: _described(tensor) for key, tensor in tensors.items()},
        }
        text = json.dumps(record, sort_keys=True)
        header = {"format": _FORMAT, "record": text, "crc": str(zlib.crc32(text.encode()))}
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, partial, metadata=header)
            partial.replace(path)
        except SafetensorError as error:
            raise SearchError(
                f"cannot save the search to {path} ({error}); expected a folder of yours with "
                "space left; free some and run the same again: what was saved before is kept"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "SearchState":
        """Read a state written by :meth:`save`, onto the CPU.

        Raises:
            SearchError: The file is missing, damaged, or not the state of a search.
        """
        try:
            with safe_open(path, "pt") as file:
                record = _checked_record(path, file.metadata() or {})
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            if isinstance(error, SearchError):
                raise
            raise _damaged(path, str(error)) from error
        if {key: _described(tensor) for key, tensor in tensors.items()} != record["tensors"]:
            raise _damaged(path, "its tensors do not match their checksums")
        slots: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            slot, name = key.split("/", 1)
            slots.setdefault(slot, {})[name] = tensor
        return cls(record["engine"], record["settings"], slots, record["step"])


@dataclass(frozen=True)
class Progress:
    """One gradient of a search, after it was taken in.

    Attributes:
        step: Gradients taken so far.
        steps: Gradients to take in all.
        loss: Loss at the point where this gradient was taken.
        state: The live state, to be saved; it changes with the next step.
    """

    step: int
    steps: int
    loss: float
    state: SearchState = field(repr=False, compare=False)


def run(
    search: Generator[Progress, None, Result],
    on_progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Drain a search and return its result."""
    while True:
        try:
            progress = next(search)
        except StopIteration as finished:
            return finished.value
        if on_progress is not None:
            on_progress(progress)


def begin(
    state: SearchState | None,
    weights: Mapping[str, Tensor],
    *,
    engine: str,
    steps: int,
    settings: dict[str, Setting],
    start: Callable[[], dict[str, dict[str, Tensor]]],
) -> SearchState:
    """Start a search, or check that ``state`` belongs to it and move it next to ``weights``.

    Args:
        state: Where to go on, or None.
        weights: The untouched weights that are searched.
        engine: Name of the search.
        steps: Gradients in all; may exceed what the interrupted search was asked for.
        settings: Everything that changes the result, apart from ``steps`` and the losses.
        start: Builds the accumulators of step 0.

    Raises:
        SearchError: ``steps`` is not positive, or ``state`` is that of another search. Nothing has
            been changed in that case.
    """
    if steps < 1:
        raise SearchError(f"steps is {steps}, expected at least 1; give the number of gradients")
    settings = {**settings, "weights": fingerprint(weights)}
    if state is None:
        return SearchState(engine, settings, start())
    if (state.engine, state.settings) != (engine, settings):
        theirs, ours = {"engine": state.engine, **state.settings}, {"engine": engine, **settings}
        odd = next(k for k in theirs | ours if theirs.get(k) != ours.get(k))
        raise SearchError(
            f"the state was left with {odd}={theirs.get(odd)!r}, expected {ours.get(odd)!r}; "
            "resume with the model and settings it was started with, or start anew"
        )
    if state.step > steps:
        raise SearchError(
            f"the state has taken {state.step} steps, expected at most steps={steps}; "
            "ask for more steps, or start anew"
        )
    for named in state.slots.values():
        named.update({name: named[name].to(w.device) for name, w in weights.items()})
    return state


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Digest names, shapes, types and every bit of ``tensors``; the order does not matter."""
    described = json.dumps({n: _described(t) for n, t in tensors.items()}, sort_keys=True)
    return f"{zlib.crc32(described.encode()):08x}"


def _described(tensor: Tensor) -> list:
    """Describe a tensor by type, shape and checksum of its bytes."""
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return [str(tensor.dtype), list(tensor.shape), zlib.crc32(data)]


def _checked_record(path: str | Path, header: Mapping[str, str]) -> dict:
    """Parse the header of a state file, or refuse it."""
    if header.get("format") != _FORMAT:
        raise _damaged(path, f"its format is {header.get('format')!r}")
    text = header.get("record", "")
    if header.get("crc") != str(zlib.crc32(text.encode())):
        raise _damaged(path, "its header does not match its checksum")
    return json.loads(text)


def _damaged(path: str | Path, found: str) -> SearchError:
    return SearchError(
        f"{str(path)!r} cannot be read: {found}; expected the complete state of a search "
        f"({_FORMAT}); start the search anew"
    )
