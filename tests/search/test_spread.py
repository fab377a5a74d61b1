"""Parts shared by processes: two of them find what one finds, to the bit."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cones.search import spread as shared
from cones.search.spread import one_search, place, spread, summed

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch
from cones.concept_file import dumps
from cones import find, Subject
from cones.search.spread import one_search, place
from fakes import tiny_pipeline, tiny_pixels
torch.set_num_threads(1)
how = {"steps": 3, "score_steps": 2, "prior_count": 9, "prior_steps": 2, "batch": 3,
       "prior_batch": 2, "draws": 6, "micro_batch": 1, "density": 0.02, "precision": "pipeline"}
with one_search():
    work = sys.argv[1] + "/work" if "work" in sys.argv else None
    cat = find(tiny_pipeline(), Subject(tiny_pixels(5), "cat"), work=work, **how)
    cat.certificate.pop("seconds")
    with open(f"{sys.argv[1]}/{place()[0]}of{place()[1]}", "wb") as file:
        file.write(dumps(cat))
"""


def launched(folder: Path, count: int, *words: str) -> None:
    """Run the program in as many processes as accelerate would."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), *words]
    running = [
        subprocess.Popen(command, env=os.environ | told | {"RANK": str(k), "LOCAL_RANK": str(k)})
        for k in range(count)
    ]
    assert [process.wait(300) for process in running] == [0] * count


@pytest.mark.slow
def test_two_processes_find_what_one_finds_to_the_bit(tmp_path: Path) -> None:
    launched(tmp_path, 1)
    launched(tmp_path, 2, "work")
    found = [(tmp_path / name).read_bytes() for name in ("0of1", "0of2", "1of2")]
    assert found[0] == found[1] == found[2]
    assert len([*(tmp_path / "work").rglob("*.png")]) == 25  # the first process keeps all


def test_a_process_without_others_computes_all_parts_one_after_another() -> None:
    computed: list[int] = []

    def part(k: int) -> tuple[Tensor]:
        computed.append(k)
        return (torch.tensor(k),)

    found = spread(lambda k=k: part(k) for k in range(3))
    assert next(found) == (torch.tensor(0),)
    assert computed == [0]
    assert [int(each) for (each,) in found] == [1, 2]


class Group:
    """A process group of which this process is one; the others say what they are told to say."""

    def __init__(self, rank: int, heard: dict[int, tuple[Tensor, ...]]) -> None:
        self.rank, self.heard = rank, heard
        self.said: list[tuple[int, Tensor]] = []

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return 2

    def get_backend(self) -> str:
        return "gloo"

    def broadcast_object_list(self, told: list, src: int) -> None:
        if src != self.rank:
            told[0] = [(each.shape, each.dtype) for each in self.heard[src]]

    def broadcast(self, data: Tensor, src: int) -> None:
        if src == self.rank:
            self.said.append((src, data))
        else:
            told = [each.reshape(-1).view(torch.uint8) for each in self.heard[src]]
            data.copy_(torch.cat(told))


def test_a_process_computes_its_own_and_hears_the_others_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = torch.tensor([[1.0, 2.5]]), torch.tensor(3.0, dtype=torch.bfloat16)
    own = torch.tensor([[7.0, 8.0]]), torch.tensor(9.0, dtype=torch.bfloat16)
    group = Group(1, {0: other})
    monkeypatch.setattr(shared, "group", group)
    assert place() == (0, 1)  # a group alone shares nothing
    monkeypatch.setattr(shared, "_SHARED", ContextVarOf(True))
    assert place() == (1, 2)
    never = pytest.fail
    parts = [lambda: never("not mine"), lambda: own, lambda: never("not mine")]
    found = list(spread(parts))
    for got, expected in zip(found, (other, own, other), strict=True):
        assert [each.dtype for each in got] == [torch.float32, torch.bfloat16]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    ((source, data),) = group.said
    assert source == 1
    assert data[:8].clone().view(torch.float32).tolist() == [7.0, 8.0]
    assert data[8:].clone().view(torch.bfloat16).tolist() == [9.0]


def test_sums_are_those_of_one_process_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0, 1e8, -1e8, 1.0, 3.0]  # in another order the sum is another
    parts = [lambda x=x: (torch.tensor(x), torch.tensor(x).bfloat16()) for x in values]
    (alone, half), total = summed(parts), torch.tensor(0.0)
    for x in values:
        total = total + x
    assert torch.equal(alone, total)
    assert half.dtype == torch.float32  # sums of half precision are wide
    first = torch.tensor(1.0) + 1e8 - 1e8  # of a block of three
    heard = first, torch.tensor(1.0).bfloat16().float()
    monkeypatch.setattr(shared, "_SHARED", ContextVarOf(True))
    monkeypatch.setattr(shared, "group", Group(1, {0: heard}))
    never = [lambda: pytest.fail("not mine")] * 3
    assert torch.equal(summed([*never, *parts[3:]])[0], alone)
    last = Group(0, {1: (torch.tensor(7.0), torch.tensor(8.0))})
    monkeypatch.setattr(shared, "group", last)
    assert float(summed([*parts[:3], *never[:2]])[0]) == 7.0
    assert float(last.said[0][1][:4].clone().view(torch.float32)) == float(first)


class ContextVarOf:
    """A context variable with one value."""

    def __init__(self, value: bool) -> None:
        self.get = lambda: value


def test_without_a_launch_nothing_is_shared() -> None:
    with one_search() as device:
        assert (device, place()) == (None, (0, 1))
