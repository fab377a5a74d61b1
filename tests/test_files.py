"""A reader sees a whole file or none; writers never meet."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cones.errors import FileError
from cones.files import alone, replace_when_done, write_atomic
from holding import held


def test_writes_whole_with_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    old = os.umask(0o027)
    try:
        write_atomic(target, b"one")
    finally:
        os.umask(old)
    assert target.read_bytes() == b"one"
    assert target.stat().st_mode & 0o777 == 0o640
    write_atomic(target, b"two")
    assert [f.name for f in target.parent.iterdir()] == ["a.bin"]
    assert target.read_bytes() == b"two"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replace_when_done(target) as part:  # noqa: PT012
        part.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    with replace_when_done(target) as one, replace_when_done(target) as two:
        assert one != two
        assert one.suffix == two.suffix == ".png"
        one.write_bytes(b"one")
        two.write_bytes(b"two")
    assert target.read_bytes() == b"one"  # the outer block ended last


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomic(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


def test_long_names_in_new_folders(tmp_path: Path) -> None:
    target = tmp_path / "new" / "newer" / f"{'x' * 240}.bin"
    write_atomic(target, b"x")
    assert target.read_bytes() == b"x"


def test_data_are_on_the_disk_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, named, sync = tmp_path / "a.png", [], os.fsync

    def watched(number: int) -> None:
        named.append(target.exists())
        sync(number)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomic(target, b"x")
    assert named == [False, True]  # the data, then the folder


def test_strays_of_killed_runs_go_after_a_day(tmp_path: Path) -> None:
    target = tmp_path / "picture[1].png"
    stray, fresh = (
        tmp_path / f".picture[1].png.{letters}.part.png" for letters in ("89abcdef", "01234567")
    )
    others = [
        tmp_path / name
        for name in (".picture[2].png.01234567.part.png", ".picture[1].png.of someone.part.png")
    ]
    for file in (stray, fresh, *others):
        file.touch()
    for file in (stray, *others):
        os.utime(file, (time.time() - 2 * 24 * 3600,) * 2)
    write_atomic(target, b"x")
    assert not stray.exists()
    assert all(file.exists() for file in (fresh, *others))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with held(tmp_path / "out" / ".lock") as process:
        yield process


def test_a_second_process_is_refused_and_told_which_one_is_at_work(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    lock = tmp_path / "out" / ".lock"
    said = f"out is in use by the process {holder.pid} on .* since .*; expected one.*; wait for it"
    with pytest.raises(FileError, match=said), alone(lock):
        pass
    (tmp_path / "out" / ".lock.owner").unlink()
    with pytest.raises(FileError, match="in use by the process that has just begun"), alone(lock):
        pass
    holder.communicate()  # ends well
    assert list(lock.parent.iterdir()) == []
    with alone(lock):
        assert (lock.parent / ".lock.owner").read_text().startswith(f"{os.getpid()} on ")


def test_the_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    lock = tmp_path / "out" / ".lock"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock.with_name(".lock.owner").read_text().startswith(f"{holder.pid} on ")
    with alone(lock):
        assert lock.with_name(".lock.owner").read_text().startswith(f"{os.getpid()} on ")
        with pytest.raises(FileError, match=f"process {os.getpid()} on"), alone(lock):
            pass
    assert list(lock.parent.iterdir()) == []


def test_a_lock_is_let_go_of_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), alone(tmp_path / "lock"):
        raise KeyboardInterrupt
    with alone(tmp_path / "lock"):
        pass
