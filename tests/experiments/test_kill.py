"""How killed runs are compared and counted; the rounds themselves are slow."""

import json
import signal
from pathlib import Path

import pytest

from experiments.kill import attempt, commands, compared, contents, results, run


def test_times_do_not_count_and_anything_else_does(tmp_path: Path) -> None:
    inner = json.dumps({"cones": json.dumps({"seconds": 1, "gain": 2})})
    for name, seconds, gain in (("a", 1, 2), ("b", 9, 2), ("c", 1, 3)):
        (tmp_path / name).mkdir()
        told = {"seconds": seconds, "rows": [{"gain": gain, "seconds": seconds}]}
        (tmp_path / name / "x.json").write_text(json.dumps(told))
        text = inner.replace('\\"seconds\\": 1', f'\\"seconds\\": {seconds}').encode()
        text = text[:-1] + b',"cones.sha256":0}'
        body = bytes([gain]) + bytes([seconds]) * 32
        data = len(text).to_bytes(8, "little") + text + body
        (tmp_path / name / "x.safetensors").write_bytes(data)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert compared(a, c) == {"differing": ["x.json", "x.safetensors"], "strays": []}
    assert compared(a, {"x.json": a["x.json"], "y": 0})["differing"] == ["x.safetensors"]
    assert compared(a, {**a, "y": 0})["strays"] == ["y"]


def test_a_command_can_be_killed_before_any_change_on_disk_or_after_some_time(
    tmp_path: Path,
) -> None:
    program = "import os; [os.mkdir(f'{out}/{k}') for k in range(3)]"
    (tmp_path / "sleeper.py").write_text(f"out = {str(tmp_path)!r}; {program}")
    command = ("sleeper", [])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        code, _, changes = attempt(command, tmp_path, change=2)
        assert (code, changes) == (-signal.SIGKILL, 2)
        assert sorted(path.name for path in tmp_path.glob("?")) == ["0", "1"]
        assert attempt(command, tmp_path)[0] == 1  # a folder is there already
        (tmp_path / "sleeper.py").write_text("while True: pass")
        code, seconds, _ = attempt(command, tmp_path, seconds=0.05)
        assert code == -signal.SIGKILL
        assert 0.04 < seconds < 5


def test_rounds_are_counted_by_command(tmp_path: Path) -> None:
    (tmp_path / "rounds").mkdir()
    stray = ".cat.safetensors.0a1b2c3d.part.safetensors"
    rounds = (("find", -9, [], [stray]), ("find", 3, [], []), ("study", -9, ["page.md"], []))
    for number, (name, killed, differing, strays) in enumerate(rounds):
        told = {"command": name, "killed": killed, "differing": differing, "strays": strays}
        (tmp_path / "rounds" / f"{number}.json").write_text(json.dumps(told))
    found = results(tmp_path)
    assert found["commands"] == [
        {"command": "find", "rounds": 2, "killed": 1, "equal": 2, "differing": 0, "strays": 1},
        {"command": "study", "rounds": 1, "killed": 1, "equal": 0, "differing": 1, "strays": 0},
    ]
    assert {n: found[n] for n in ("rounds", "killed", "equal", "differing", "strays")} == {
        "rounds": 3, "killed": 2, "equal": 2, "differing": 1, "strays": 1,
    }  # fmt: skip
    assert found["files"] == ["find: .cat.safetensors.*.part.safetensors", "study: page.md"]


def test_every_command_writes_below_its_folder(tmp_path: Path) -> None:
    for _, words in commands(tmp_path, tmp_path / "run").values():
        assert any(str(tmp_path / "run") in word for word in words)


@pytest.mark.slow
def test_a_killed_drawing_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    said: list[str] = []
    run(tmp_path, ["generate"], rounds=2, say=said.append)
    found = results(tmp_path)
    assert (found["rounds"], found["killed"], found["differing"]) == (2, 2, 0)
    assert len(said) == 2
