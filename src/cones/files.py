"""Writing a file so that a reader sees all of it or none of it, and locks that name their owner.

Data go to a new name in the same folder, to the disk, and only then to the wanted name. Names are
unique, so two writers of one file never touch each other's data: the last one wins, whole.
"""

import glob
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cones.errors import FileError

ABANDONED = 24 * 3600  # seconds after which a temporary file is one of a killed run


def require_free(path: Path, *, replaceable: bool) -> None:
    """Refuse a path where something is, unless that may be replaced, by a FileError."""
    if path.exists() and not replaceable:
        raise FileError(
            f"{path} exists; expected a new name, or an older output and overwrite=True "
            "(--overwrite); choose another name"
        )


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all; see :func:`replace_when_done`."""
    with replace_when_done(path) as part:
        part.write_bytes(data)


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Hand out a temporary name and move it to ``path`` when the block ends well.

    The name ends like ``path``, missing folders are made, and the umask counts. If the block
    raises, the temporary file is removed and ``path`` is as it was.
    """
    path = path.resolve()  # a link is written through, not replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    start, end = f".{path.name[:80]}.", f".part{path.suffix}"
    for stray in path.parent.glob(f"{glob.escape(start)}????????{glob.escape(end)}"):
        with suppress(OSError):  # another run was faster
            if time.time() - stray.stat().st_mtime > ABANDONED:
                stray.unlink()
    part = path.with_name(f"{start}{secrets.token_hex(4)}{end}")
    part.touch(exist_ok=False)  # later writers keep these permissions
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # make the new name last; Windows cannot
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file while the context is open; a FileError names the process that has it.

    The lock of a dead process is free. Two that come in the moment in which it is removed may both
    be let in: look at what is there once more before it is written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner, held = lock.with_name(f"{lock.name}.owner"), FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        name = ""
        with suppress(OSError):  # it may end just now
            name = owner.read_text()
        raise FileError(
            f"{lock.parent} is in use by the process {name or 'that has just begun'}; "
            "expected one run at a time; wait for it, or work in another folder"
        ) from error
    try:
        owner.write_text(f"{os.getpid()} on {socket.gethostname()} since {time.ctime()}")
        yield
    finally:
        with suppress(OSError):  # Windows removes nothing that is open
            owner.unlink(missing_ok=True)
            lock.unlink()
        held.release()
