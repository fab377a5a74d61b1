"""Where results go and where the work runs, checked before any work starts.

An output that exists is refused without ``--overwrite``; a folder that cannot be written is
refused at once and not after an hour.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cones.errors import ConesError

DTYPES = ("float32", "float16", "bfloat16")


def require_free(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse outputs that exist.

    Raises:
        ConesError: One exists, and may not be overwritten.
    """
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise ConesError(
            f"found {taken[0]} already there; expected a new name; "
            "choose another or add --overwrite"
        )


def require_file(path: Path, *, overwrite: bool) -> Path:
    """Check that a file can be written, and make its folder.

    Raises:
        ConesError: It exists, is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise ConesError(f"found a folder at {path}; expected a file name; add one to the path")
    require_free([path], overwrite=overwrite)
    require_folder(path.parent)
    return path


def require_folder(folder: Path) -> Path:
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
            "left; choose another place with -o"
        ) from error
    return folder


def require_files(paths: Iterable[Path], *, what: str) -> list[Path]:
    """Check that files to read are there.

    Raises:
        ConesError: One is missing.
    """
    found = list(paths)
    for path in found:
        if not path.is_file():
            raise ConesError(f"found no file {path}; expected {what}; check the path")
    return found


def cache_folder() -> Path:
    """Give the folder where prior pictures are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "cones" / "prior"


def pipeline(model: str | None, *, device: str | None, dtype: str | None, half: bool) -> Any:
    """Load the model where it runs best: a GPU if there is one.

    Args:
        model: Folder or Hub name; None is the built-in model.
        device: As torch names it, or None to choose.
        dtype: One of ``DTYPES``, or None to choose.
        half: Half precision does for the task, where the device is fast at it.

    Raises:
        ConesError: There is no such device, precision or model.
    """
    import torch

    from cones.backbones import load_pipeline

    chosen = device or _best_device(torch)
    if dtype is not None and dtype not in DTYPES:
        raise ConesError(f"found dtype {dtype!r}; expected one of {', '.join(DTYPES)}; choose one")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ConesError(
            f"found no device {chosen!r} ({reason}); expected cpu, cuda or mps; leave it out"
        ) from error
    _quiet_libraries()
    automatic = "float16" if half and chosen.startswith("cuda") else "float32"
    return load_pipeline(model, device=chosen, dtype=getattr(torch, dtype or automatic))


def _quiet_libraries() -> None:
    """Leave the screen to our own bars; errors and downloads still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
