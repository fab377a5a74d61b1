"""Mutate concept files and record what reading each does: ``python -m experiments fuzz``.

A mutant is a good file and one to four edits, and depends on its number alone. The kinds
``damage`` and ``bytes`` change bytes at random; the others know the layout and forge fields, JSON
text and streams. The digest is then made to fit, except for ``damage``. Numbers come in chunks,
each with a record and a child process of little memory: a run can be stopped, shared and resumed.
"""

import hashlib
import json
import multiprocessing
import random
import re
import resource
import time
import traceback
import zlib
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import cones.concept_file as reader
from cones.concept import Concept, Word
from cones.errors import FileError
from cones.files import write_atomic
from cones.fingerprint import Fingerprint
from cones.mask import Mask

CHUNK = 1_000
MOST = 1_024  # parameters that a file may have
ROOM, SMALL = 1 << 30, 1 << 20  # bytes: address space of a child; files that the limits are for
LIMITS = {"seconds": 2.0, "megabytes": 200.0}
KINDS = {"damage": 300, "bytes": 300, "field": 300, "text": 98, "stream": 2}  # of 1,000
GOOD = ("refused", "read", "same")
HOSTILE = (
    None, True, 0, -1, 1, 3, 255, 2**29, 2**32, 2**40, 2**53, 2**62, 2**63, 2**64, 10**30, 1.5,
    -0.0, 1e308, float("nan"), float("inf"), "", "V*", "a cat", "\0", "\x1b[31m", "\ud800",
    "\u202e", "../x", "<script>", "x" * 5_000, [], {}, [[]], [0], [2**40] * 2, {"a": 1}, [1] * 300,
)  # fmt: skip
TOKENS = (
    "NaN", "-Infinity", "1e999", '"version":3,', '"cones.labels":{},', "1" * 5_000, "[" * 200,
    "[" * 100_000, '{"a":' * 700, "}" * 9, '"\\ud800"', '"\\u0000"', "\0", "'", "01", "-", "null",
    "true", "", ",", ":", "\ufeff", "/**/", " " * 9_000, "[]", "{}", '"', "\\",
)  # fmt: skip
TOKEN = re.compile(r'"[^"]*"|-?[\d.]+|[][{},:]')
PATTERNS = (b"\0", b"\xff", b"\xff\0", b"\1\2\3", b"\xfe")


@dataclass(frozen=True)
class Mutant:
    """A good file by its number, and edits by the seeds that they are drawn from."""

    kind: str
    base: int
    edits: tuple[int, ...]


@cache
def bases() -> tuple[tuple[bytes, str, bytes], ...]:
    """Give the good files: all bytes, the header with its inner JSON laid open, the body."""
    found = []
    for levels, words, size in ((1, 1, 32), (3, 2, 32), (2, 1, 96)):
        draw = torch.Generator().manual_seed(levels)
        noise = {f"mid.{n}.weight": torch.rand(size, size, generator=draw) for n in "kv"}
        shares = [0.2 * (k + 1) / levels for k in range(levels)]
        masks = tuple(Mask.where({n: x < s for n, x in noise.items()}) for s in shares)
        rows = torch.randn(words, 1, 8, generator=draw).unbind()
        named = tuple(Word(f"V{k}*", "cat", {"clip": each}) for k, each in enumerate(rows))
        base = Fingerprint.of(noise, "maker/base")
        data = reader.dumps(Concept(masks, named, base, {"steps": 300}, {"gain": {"mean": 0.5}}))
        end = 8 + int.from_bytes(data[:8], "little")
        tree = json.loads(data[8:end])
        tree["__metadata__"]["cones"] = json.loads(tree["__metadata__"]["cones"])
        found.append((data, json.dumps(tree), data[end:-32]))
    return tuple(found)


def mutant(number: int) -> Mutant:
    """Draw a mutant from its number."""
    draw = random.Random(number)
    kind, base = draw.choices([*KINDS], [*KINDS.values()])[0], draw.randrange(len(bases()))
    count = 1 if kind == "stream" else draw.choice((1, 1, 1, 2, 4))
    return Mutant(kind, base, tuple(draw.getrandbits(32) for _ in range(count)))


def built(made: Mutant) -> bytes:
    """Lay out a mutant's file."""
    data, header, body = bases()[made.base]
    draws = [random.Random(seed) for seed in made.edits]
    if made.kind in ("damage", "bytes"):
        for draw in draws:
            data = _bytes_changed(data, draw)
        return data if made.kind == "damage" else _sealed(data[:-32])
    tree = json.loads(header)
    if made.kind == "stream":
        return _streamed(tree["__metadata__"]["cones"], draws[0])
    inner = [draw for draw in draws if made.kind == "text" and draw.random() < 0.7]
    for draw in draws if made.kind == "field" else ():
        _field_changed(tree, draw)
    if isinstance(held := tree.get("__metadata__"), dict) and "cones" in held:
        held["cones"] = _text(held["cones"], inner)
    outer = [draw for draw in draws if made.kind == "text" and draw not in inner]
    text = _text(tree, outer).encode("utf-8", "surrogatepass")
    return _sealed(len(text).to_bytes(8, "little") + text + body)


def _sealed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def _bytes_changed(data: bytes, draw: random.Random) -> bytes:
    """Flip a bit, insert, remove or repeat a few bytes, or end the file."""
    data = data or b"\0"
    at, what = draw.randrange(len(data)), draw.choice(("flip", "insert", "cut", "copy", "end"))
    fresh, gone = b"", draw.choice((1, 8, 100))
    if what == "flip":
        fresh, gone = bytes([data[at] ^ 1 << draw.randrange(8)]), 1
    elif what in ("insert", "copy"):
        start = draw.randrange(len(data))
        fresh = draw.randbytes(gone) if what == "insert" else data[start : start + gone]
        gone = draw.choice((0, gone))
    return data[:at] + fresh + (b"" if what == "end" else data[at + gone :])


def _field_changed(tree: Any, draw: random.Random) -> None:  # noqa: ANN401 - any JSON
    """Replace, remove or repeat one field of the header."""
    node, key = tree, draw.choice([*tree, "cones"])
    tree.setdefault(key, None)
    while isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
        node = node[key]
        key = draw.choice([*node]) if isinstance(node, dict) else draw.randrange(len(node))
    old, fresh = node[key], deepcopy(draw.choice(HOSTILE))
    what = draw.choice(("set", "near", "copy", "drop"))
    if what == "near":  # what it was, made deeper, longer or other by a little
        depth = draw.choice((6, 7, 600))
        deep = json.loads('{"a":' * depth + "1" + "}" * depth)
        fresh = draw.choice((deep, [old] * 70, f"{old}\x07", f"{old} x", {"a": old}))
        if isinstance(old, int):
            fresh = old + draw.choice((-1, 1, 2, 255, old, 2**32))
    if what == "drop":
        del node[key]
    else:
        more = what == "copy" and isinstance(node, dict)
        node[str(fresh)[:50] if more else key] = old if more else fresh


def _text(value: object, draws: list[random.Random]) -> str:
    """Write JSON, then put hostile tokens into it or in the place of others."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for draw in draws:
        at = TOKEN.search(text, draw.randrange(len(text))) or TOKEN.search(text)
        start, end = at.span() if at else (0, 0)
        text = text[: draw.choice((start, end))] + draw.choice(TOKENS) + text[end:]
    return text


def _streamed(told: dict[str, Any], draw: random.Random) -> bytes:
    """Forge parameters of any shape whose counts and lengths are right."""
    power, many = 2 ** draw.randrange(3, 63), draw.choice((1, 1, 1, 2, 50, MOST))
    shape = draw.choice(
        ([power], [power], [1 << 20] * draw.randrange(1, 4), [1] * (50_000 // many))
    )
    length, strategy = 2 ** draw.choice((*range(14), *range(24))), draw.choice((0, 2))
    data, count = deflated(draw.choice(PATTERNS), length // many, strategy)
    rest, levels = deflated(b"\0", count, strategy)[0], draw.choice((1, 1, 2, 3, 16, 17))
    sizes = [len(data)] + [len(rest)] * (levels - 1)
    one = {"shape": shape, "counts": [count] * levels, "bytes": sizes}
    told["parameters"] = [{"name": f"w{k}", **one} for k in range(many)]
    told["levels"], told["words"] = levels, told["words"][:1]
    told["words"][0]["encoders"] = []
    blob = bytearray((data + rest * (levels - 1)) * many)
    tensors = {reader.POSITIONS: torch.frombuffer(blob, dtype=torch.uint8)}
    tensors[reader.DIGEST] = torch.zeros(32, dtype=torch.uint8)
    return _sealed(save(tensors, {"cones": json.dumps(told)})[:-32])


@lru_cache(64)
def deflated(pattern: bytes, length: int, strategy: int) -> tuple[bytes, int]:
    """Press a repeated pattern, and count the positions that it holds."""
    whole = pattern * (length // len(pattern))
    press = zlib.compressobj(9, wbits=-15, strategy=strategy)
    return press.compress(whole) + press.flush(), len(whole) - whole.count(b"\xff")


def outcome(made: Mutant, data: bytes, cost: dict[str, float]) -> str:
    """Read a file and say what came of it: one of ``GOOD``, or what is wrong; fill in the cost."""
    original, found, before, started = bases()[made.base][0], None, _peak(), time.process_time()
    try:
        try:
            found = reader.loads(data)
        finally:
            cost["seconds"] = time.process_time() - started
            cost["megabytes"] = _peak() - before
        if made.kind == "damage" and data != original:
            return "a damaged file was read"
        if len(found.mask) < 100_000 and len(found.mask.shapes) < 100 and (wrong := _used(found)):
            return wrong
    except FileError as error:
        said = str(error)
        clear = said.isprintable() and said.count(";") >= 2 and "expected" in said
        good = clear and len(said) < 1_000 and found is None
        return "refused" if good else f"refused {'unclearly' if found is None else 'too late'}"
    except BaseException as error:  # whatever it is, it is to be recorded
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(at.filename).name}: {at.name}"
    return "same" if data == original else "read"


def _used(found: Concept) -> str:
    """Do with a concept what commands do; say what goes wrong."""
    again = reader.loads(reader.dumps(found))
    if not all(line.isprintable() for line in str(found).split("\n")):
        return "it cannot be printed"
    same = again.levels == found.levels and str(again) == str(found)
    return "" if same and (found | found).mask == found.mask else "it is another when written"


def _peak() -> float:
    """Give the most memory that this process held at once, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def record(number: int, folder: Path, at: "Synchronized[int]", skipped: set[int]) -> None:
    """Read the mutants of a chunk in this process, which may take little memory from now on."""
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CPU, (900, 900))
    Path("/proc/self/clear_refs").write_text("5")
    worst, counts, failures = dict.fromkeys(LIMITS, 0.0), Counter[str](), dict[str, Any]()
    for at.value in sorted({*range(number * CHUNK, (number + 1) * CHUNK)} - skipped):
        made = mutant(at.value)
        data = built(made)
        what = outcome(made, data, cost := {})
        if cost["megabytes"] > 1:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        if len(data) < SMALL:
            worst = {name: round(max(value, cost[name]), 3) for name, value in worst.items()}
            over = [name for name, most in LIMITS.items() if cost[name] > most]
            what = f"too many {over[0]}" if over and what in GOOD else what
        counts[f"{made.kind}.{what if what in GOOD else 'failed'}"] += 1
        if what not in GOOD:
            failures.setdefault(what, {"count": 0, "number": at.value})["count"] += 1
    found = {"counts": counts, "worst": worst, "failures": failures, "died": sorted(skipped)}
    write_atomic(folder / f"{number:06d}.json", json.dumps(found).encode())


def run(folder: Path, *, mutants: int, seconds: float, shard: tuple[int, int] = (0, 1)) -> None:
    """Read mutants that have no record yet, until ``seconds`` are over or all are read."""
    bases()
    context, ends = multiprocessing.get_context("fork"), time.monotonic() + seconds
    for number in range(-(-mutants // CHUNK))[shard[0] :: shard[1]]:
        died = set[int]()
        while not (folder / f"{number:06d}.json").exists() and time.monotonic() < ends:
            at = context.Value("q", -1)
            child = context.Process(target=record, args=(number, folder, at, died))
            child.start()
            child.join()
            died |= {at.value} if child.exitcode else set()


def results(folder: Path) -> dict[str, Any]:
    """Add up the records."""
    counts, worst, failures = Counter[str](), dict.fromkeys(LIMITS, 0.0), dict[str, Any]()
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        counts.update(found["counts"])
        worst = {name: max(value, found["worst"][name]) for name, value in worst.items()}
        for what, each in found["failures"].items():
            failures.setdefault(what, {**each, "count": 0})["count"] += each["count"]
        for number in found["died"]:
            failures.setdefault("died", {"count": 0, "number": number})["count"] += 1
    kinds = [{"kind": k, **{w: counts[f"{k}.{w}"] for w in (*GOOD, "failed")}} for k in KINDS]
    total = {what: sum(kind[what] for kind in kinds) for what in (*GOOD, "failed")}
    mutants = counts.total() + failures.get("died", {}).get("count", 0)
    return {"mutants": mutants, **total, "worst": worst, "kinds": kinds, "failures": failures}
