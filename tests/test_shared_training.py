"""Pretraining in several processes: what one process learns from the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from cones.mini.training import Recipe, Run, train

torch.set_num_threads(1)
state = PartialState(cpu=True)
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Linear(12, 1))
run = Run(module, Recipe(steps=6, batch=8, rate=0.1, warmup=2), Path(sys.argv[1]))

def loss_of(step):
    batch = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
    own = batch[state.process_index :: state.num_processes]
    return run.module(own).square().mean()

assert train(run, loss_of, label="t", minutes=60)
assert state.num_processes == int(sys.argv[2])
"""


def started(folder: Path, processes: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    running = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        env = {**os.environ, **(shared if processes > 1 else {}), **own}
        words = [sys.executable, "-c", SCRIPT, str(folder), str(processes)]
        running.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said


def test_two_processes_learn_what_one_learns(tmp_path):
    started(tmp_path / "one", 1)
    started(tmp_path / "two", 2)
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    assert set(one) == set(two)
    moved = load_file(tmp_path / "one" / "state.safetensors")["weight/0.weight"]
    torch.manual_seed(0)
    assert (moved - torch.nn.Linear(12, 12).weight).abs().max() > 1e-3
    for name, weight in one.items():
        # Newton-Schulz runs in bf16, so that sums in another order show in the third digit.
        torch.testing.assert_close(weight, two[name], atol=2e-3, rtol=2e-2, msg=name)
