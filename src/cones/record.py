"""Write down what was measured: the machine beside the figures, files that appear when done."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers")


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    found |= {name: metadata.version(name) for name in LIBRARIES}
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """Read the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


@contextmanager
def appearing(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there appears when the block ends.

    After an exception nothing is left, and what lay at ``path`` before is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a file under a temporary name beside its place and rename it."""
    with appearing(path) as unfinished:
        unfinished.write_text(text, "utf-8")


def write_json(path: Path | str, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON; not-a-number is refused."""
    write_text(path, json.dumps(figures, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
