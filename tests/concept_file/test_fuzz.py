"""Whatever a file holds: a concept, or one FileError, in little memory."""

import copy
import gc
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cones.concept_file import dumps, loads
from cones.errors import FileError
from forging import deflated, forged, good, nested, packed, parts, sealed

pytestmark = pytest.mark.usefixtures("unchecked")  # the reader itself must refuse
HOSTILE = [
    None, True, 0, -1, 1, 7, 2**31, 2**40, 2**62, 2**70, 0.5, "", "x", "../../x", "V*", "\x1b[31m",
    "\ud800", [], {}, [[]], [1], ["x"], {"x": 1}, "a cat", "3", 3, 1.0, "x" * 20_000,
]  # fmt: skip


def peak(work: Callable[[], object]) -> int:
    """Give the bytes by which the resident memory grew at most."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of before

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10

    before = status("VmRSS")
    work()
    return status("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_memory_follows_the_size_of_the_file() -> None:
    shape = [1 << 39]
    empty = packed(shape, (0, deflated(b"")), (0, deflated(b"")))
    assert peak(lambda: loads(empty).mask | loads(empty).mask) < 20 << 20
    assert len(loads(empty).mask.shapes["w"]) == 1
    dense = deflated(bytes(7_000_000), zlib.Z_HUFFMAN_ONLY)
    assert len(dense) < 1 << 20
    large = packed(shape, (7_000_000, dense))
    assert peak(lambda: loads(large)) < 200 << 20


def mutated(node: object, chance: random.Random) -> object:
    """Change one place of a JSON value."""
    inside = list(node) if isinstance(node, dict) else []
    if isinstance(node, list):
        inside = list(range(len(node)))
    if not inside or chance.random() < 0.2:
        return copy.deepcopy(chance.choice([*HOSTILE, nested(chance.choice([2, 7, 300]))]))
    assert isinstance(node, dict | list)
    key, action = chance.choice(inside), chance.random()
    if action < 0.1:
        del node[key]
    elif action < 0.2 and isinstance(node, dict):
        node[str(chance.choice(HOSTILE))] = node[key]
    else:
        node[key] = mutated(node[key], chance)
    return node


def mutant(seed: int) -> bytes:
    """Change description, tensors or body of a good file and seal it again."""
    chance = random.Random(seed)
    tensors, description, body = parts(good())
    kind = chance.choice(["description", "tensors", "body", "header"])
    for _ in range(chance.choice([1, 1, 2, 5])):
        if kind == "description":
            description = mutated(description, chance)
        elif kind == "tensors":
            tensors = mutated(tensors, chance)
        else:
            place = chance.randrange(len(body))
            body = (
                body[:place]
                + bytes([chance.randrange(256)])
                + body[place + chance.choice([0, 1, 9]) :]
            )
    if kind == "header":
        raw = bytearray(good()[8 : -len(body)])
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return sealed(raw.decode("latin-1"), body)
    return forged(tensors if isinstance(tensors, dict) else {}, description, body)


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**63))
def test_any_mutant_is_a_concept_or_refused(seed: int) -> None:
    try:
        found = loads(mutant(seed))
    except FileError as error:
        said = str(error)
    else:
        said = str(found).replace("\n", "")
        again = loads(dumps(found))
        assert again.levels == found.levels
        assert len((found | found).mask) == len(found.mask)
    assert said.isprintable()
