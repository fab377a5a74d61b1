"""Another process that holds a lock, for tests of what comes second."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cones import files

HOLD = """
import sys, pathlib
from cones.files import alone

with alone(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process hold a lock until its input ends, or it is killed."""
    command, pipe = [sys.executable, "-c", HOLD, str(lock)], subprocess.PIPE
    known = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    with subprocess.Popen(command, env=known, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()
