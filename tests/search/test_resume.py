"""A search that is stopped anywhere goes on to the same bits; one folder has one owner."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cones.errors import FileError, SearchError
from cones.search.loss import Loss, Losses, flat
from cones.search.refine import refine
from cones.search.resume import Keeper, owned
from cones.search.score import score_accelerated, score_sampled
from cones.search.settings import Settings
from toy_model import K, TwoLayers, V

STEPS = 9


def run_refine(losses: Losses, weights: dict, **options: object) -> dict:
    start = torch.zeros_like(flat(weights))
    options |= {"density": 0.2, "prior_weight": 0.1}
    settings = Settings(steps=STEPS, rate=0.1, drift=0.05)
    mask, scores, lam = refine(losses, weights, start, settings, **options)
    positions = {f"{n} positions": index for n, index in mask.indices.items()}
    return {"scores": scores, **positions, "lambda": torch.tensor(lam)}


ENGINES: dict[str, Callable] = {
    "sampled": lambda *a, **k: {"scores": score_sampled(*a, steps=STEPS, rate=0.01, **k)},
    "adam": lambda *a, **k: {"scores": score_accelerated(*a, steps=STEPS, rate=0.01, **k)},
    "refine": run_refine,
}


class Stopping:
    """Losses that stop the search once, at a step, before or inside its evaluation."""

    def __init__(self, step: int) -> None:
        self.step, self.asked, self.real = step, [], TwoLayers()

    def __call__(self, step: int) -> Loss:
        self.asked.append(step)
        if step == self.step:
            self.step = -1
            raise KeyboardInterrupt
        return self.real(step)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("step", [0, 1, 4, STEPS - 1])
def test_a_stopped_search_goes_on_to_the_same_bits(engine: str, step: int, tmp_path: Path) -> None:
    weights = TwoLayers().weights()
    whole = ENGINES[engine](TwoLayers(), weights)
    losses, keeper = Stopping(step), Keeper(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ENGINES[engine](losses, weights, keeper=keeper)
    turned = {V: weights[V], K: weights[K]}
    found = ENGINES[engine](losses, turned, keeper=keeper)
    assert losses.asked == [*range(step + 1), *range(step, STEPS)]
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[n], whole[n]) for n in whole)
    losses.asked.clear()
    again = ENGINES[engine](losses, weights, keeper=keeper)
    assert losses.asked == []
    assert all(torch.equal(again[n], whole[n]) for n in whole)


def test_a_listener_that_stops_the_search_loses_no_step(tmp_path: Path) -> None:
    told = []

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total))
        if done == 3:
            raise KeyboardInterrupt

    losses, weights = Stopping(-1), TwoLayers().weights()
    with pytest.raises(KeyboardInterrupt):
        ENGINES["adam"](losses, weights, keeper=Keeper(tmp_path, stop))
    ENGINES["adam"](losses, weights, keeper=Keeper(tmp_path))
    assert told == [("score", k, STEPS) for k in (1, 2, 3)]
    assert losses.asked == list(range(STEPS))


def test_half_a_step_is_never_saved(tmp_path: Path) -> None:
    def absorb(step: int, found: float) -> None:
        state["x"] += found
        if step == 2:
            raise KeyboardInterrupt

    state, keeper = {"x": torch.zeros(1)}, Keeper(tmp_path)
    options = {"state": state, "measure": lambda step: 1.0 + step}
    with pytest.raises(KeyboardInterrupt):
        keeper.run("s", 5, absorb=absorb, **options)
    assert list(tmp_path.iterdir()) == []
    state["x"].zero_()
    keeper.run("s", 5, absorb=lambda _, found: state["x"].add_(found), **options)
    assert state["x"].item() == 15


def test_every_step_says_its_rate() -> None:
    notes = []
    keeper = Keeper(None, lambda *told: notes.append(told[-1]))
    keeper.run("s", 2, state={}, measure=lambda _: time.sleep(0.02), absorb=lambda *_: None)
    assert all(re.fullmatch(r"None, 0\.0[2-9]\d* s a step", note) for note in notes)
    assert len(notes) == 2


def test_the_state_is_saved_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cones.search.resume.SAVE_SECONDS", -1.0)
    sizes = []

    def told(stage: str, done: int, total: int, note: str = "") -> None:
        sizes.append([path.name for path in tmp_path.iterdir()])

    ENGINES["adam"](TwoLayers(), TwoLayers().weights(), keeper=Keeper(tmp_path, told))
    assert sizes == [["score.safetensors"]] * STEPS
    Keeper(tmp_path).forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"{}" * 40, b"x" * 1000])
def test_a_state_that_cannot_be_read_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "score.safetensors").write_bytes(data)
    with pytest.raises(SearchError, match=r"cannot resume from .*score.safetensors .*; delete it"):
        ENGINES["adam"](TwoLayers(), TwoLayers().weights(), keeper=Keeper(tmp_path))


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    ENGINES["sampled"](TwoLayers(), TwoLayers().weights(), keeper=Keeper(tmp_path))
    with pytest.raises(SearchError, match="cannot resume"):
        ENGINES["adam"](TwoLayers(), TwoLayers().weights(), keeper=Keeper(tmp_path))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SearchError, match="cannot save the search to .*; expected a folder of yours"
    ):
        ENGINES["adam"](TwoLayers(), TwoLayers().weights(), keeper=Keeper(tmp_path / "file"))


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1] + "/lock"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_names_its_owner(tmp_path: Path) -> None:
    with owned(tmp_path):
        assert (tmp_path / "lock.owner").read_text().split()[1] == "on"
    assert not (tmp_path / "lock.owner").exists()
    with owned(tmp_path):  # it may be taken again
        pass
    (tmp_path / "lock.owner").write_text("77 on other-machine")
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(FileError, match="in use by the process 77 on other-machine"),
            owned(tmp_path),
        ):
            pass
        process.stdin.close()
