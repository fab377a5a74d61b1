"""Writing a file so that a reader sees all of it or none of it.

Data go to a new name in the same folder, to the disk, and only then to the wanted name. Names are
unique, so two writers of one file never touch each other's data: the last one wins, whole. There
is no locking here.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ABANDONED = 24 * 3600  # seconds after which a temporary file is taken for one of a killed run


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all; missing folders are made.

    The file gets the permissions of any new file (the umask counts).
    """
    with replace_when_done(path) as part:
        part.write_bytes(data)


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Hand out a temporary name and move it to ``path`` when the block ends well.

    For writers that need a path. The name ends like ``path``. If the block raises, the temporary
    file is removed and ``path`` is as it was.
    """
    path = path.resolve()  # a link is written through, not replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    part = path.with_name(f".{path.stem[:80]}.{secrets.token_hex(8)}.part{path.suffix}")
    part.touch(exist_ok=False)  # with the umask's permissions, which later writers keep
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sweep(path: Path) -> None:
    """Remove temporary files of ``path`` that a killed run left behind."""
    start, now = f".{path.stem[:80]}.", time.time()
    for stray in path.parent.glob(f".*.part{path.suffix}"):
        key = stray.name.removeprefix(start).removesuffix(f".part{path.suffix}")
        if len(key) == 16 and stray.name.startswith(start):
            with contextlib.suppress(OSError):  # another run was faster
                if now - stray.stat().st_mtime > ABANDONED:
                    stray.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name last, where the system can (Windows cannot)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
