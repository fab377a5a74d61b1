"""How fast a library of 10,000 concepts is, and how likeness is best told.

Concepts are synthetic and come in families of ten: number ``k`` of a family shares ``k`` tenths of
its neurons with the first. Times are CPU seconds of one thread, medians of repeats that alternate.
Exact ways take time in proportion to the concepts, so they are measured on few and multiplied.
"""

import importlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias, TypeVar
from unittest.mock import patch

import numpy as np
import torch

import cones
from cones.concept import Concept, Word
from cones.concept_file import dumps, loads
from cones.fingerprint import Fingerprint
from cones.library import INDEX, Library, likeness, sketch
from cones.mask import Mask
from cones.models import Model, model_for
from cones.models.base import Progress

COUNT, DENSITY = 10_000, 0.0132
SD15 = 43_950_080  # key and value weights of Stable Diffusion 1.x; here one flat parameter
FEW = {"built-in": 1_000, "sd15": 20}  # concepts of a measurement
REPEATS = 9
NOUNS = ("cat", "dog", "jar", "teapot")
Positions: TypeAlias = np.ndarray
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Query: TypeAlias = Callable[[Positions], np.ndarray]  # likeness to every concept
T = TypeVar("T")


def timed(do: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """Give the median of the CPU seconds that it takes, and the last result."""
    runs = []
    for _ in range(repeats):
        started = time.process_time()
        runs.append((do(), time.process_time() - started))
    return median(seconds for _, seconds in runs), runs[-1][0]


def shapes_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Give the shapes of all weights that a search sees."""
    return {name: tuple(weight.shape) for name, weight in model.weights().items()}


def neurons(number: int, total: int) -> Positions:
    """Draw the positions of a concept among ``total`` weights, sorted."""
    count, (family, own) = round(DENSITY * total), divmod(number, 10)
    first = np.random.default_rng(family).choice(total, count, replace=False, shuffle=False)
    draw = np.random.default_rng([family, own])
    shared = draw.choice(first, count * own // 10, replace=False) if own else first
    fresh = draw.choice(total, count - len(shared), replace=False, shuffle=False)
    return np.union1d(shared, fresh)


def mask_of(positions: Positions, shapes: Shapes) -> Mask:
    """Deal positions out to the parameters."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    starts = [0, *ends[:-1]]
    parts = np.split(positions, np.searchsorted(positions, ends[:-1]))
    found = [torch.from_numpy(part - start) for part, start in zip(parts, starts, strict=True)]
    return Mask(shapes, dict(zip(shapes, found, strict=True)))


def drawn(number: int, shapes: Shapes) -> Mask:
    """Draw the mask of a concept."""
    return mask_of(neurons(number, Mask.empty(shapes).total), shapes)


def ways(concepts: Sequence[Positions], total: int) -> dict[str, tuple[float, Query]]:
    """Give every way to tell likeness: bytes of a concept, and the query."""
    count, sizes = len(concepts), np.array([len(each) for each in concepts])
    listed = np.concatenate(concepts).astype(np.uint32)
    starts = np.cumsum([0, *sizes[:-1]])
    bits = np.stack([_packed(each, total) for each in concepts])
    sketches = np.stack([_sketch(each, total) for each in concepts])
    every = np.tile(sketches, (COUNT // count, 1))

    def jaccard(shared: np.ndarray, query: Positions) -> np.ndarray:
        return shared / (sizes + len(query) - shared)

    def by_lists(query: Positions) -> np.ndarray:
        hit = np.zeros(total, np.uint8)
        hit[query] = 1
        return jaccard(np.add.reduceat(hit[listed], starts, dtype=np.int64), query)

    def by_bits(query: Positions) -> np.ndarray:
        both = np.bitwise_count(bits & _packed(query, total))
        return jaccard(both.sum(1, dtype=np.int64), query)

    found = {
        "sorted lists": (listed.nbytes / count, by_lists),
        "bitmaps": (bits.nbytes / count, by_bits),
        "minhash": (sketches.nbytes / count, lambda q: likeness(every, _sketch(q, total))[:count]),
    }
    if importlib.util.find_spec("pyroaring"):
        kind = importlib.import_module("pyroaring").BitMap
        kept = [kind(each.astype(np.uint32)) for each in concepts]
        size = sum(len(each.serialize()) for each in kept) / count

        def by_roaring(query: Positions) -> np.ndarray:
            other = kind(query.astype(np.uint32))
            return np.array([each.jaccard_index(other) for each in kept])

        found["pyroaring"] = (size, by_roaring)
    return found


def _packed(positions: Positions, total: int) -> np.ndarray:
    hit = np.zeros(-(-total // 64) * 64, bool)
    hit[positions] = True
    return np.packbits(hit).view(np.uint64)


def _sketch(positions: Positions, total: int) -> np.ndarray:
    return sketch(mask_of(positions, {"weight": (total,)}))


def compared(name: str, total: int) -> list[dict[str, Any]]:
    """Measure every way on a model with ``total`` searched weights, and how far it is off."""
    concepts = [neurons(number, total) for number in range(FEW[name])]
    kinds, rows = ways(concepts, total), []
    spent, off = ({kind: list[float]() for kind in kinds} for _ in range(2))
    for repeat in range(REPEATS):
        query = concepts[repeat * len(concepts) // REPEATS // 10 * 10]  # the first of a family
        exact = kinds["sorted lists"][1](query)
        for kind, (_, ask) in kinds.items():
            seconds, found = timed(partial(ask, query))
            spent[kind].append(seconds)
            off[kind] += (found - exact).tolist()
    for kind, (size, _) in kinds.items():
        times = 1 if kind == "minhash" else COUNT / len(concepts)
        row = {"key": f"{name} {kind}".replace(" ", "-"), "model": name, "way": kind}
        row |= {"ms": 1000 * times * median(spent[kind]), "bytes": size}
        errors = np.abs(off[kind])
        row |= {"rms": float(np.sqrt((errors**2).mean())), "worst": float(errors.max())}
        rows.append(row)
    return rows


def written(folder: Path, progress: Progress) -> Shapes:
    """Write the concept files that are not there yet; give the shapes of the built-in model."""
    model = model_for(cones.load_pipeline())
    shapes, base = shapes_of(model), Fingerprint.of(model.weights(), "built-in")
    folder.mkdir(parents=True, exist_ok=True)
    row = torch.ones(1, 384)
    for number in range(COUNT):
        path = folder / f"{number:05d}.safetensors"
        if not path.exists():
            word = Word("V*", NOUNS[number % len(NOUNS)], {"text_encoder": row * number})
            made = Concept((drawn(number, shapes),), (word,), base, {}, {"verdict": "gained"})
            with patch("cones.concept_file.loads"):  # what is written need not be read back now
                made.save(path)
        progress("library", number + 1, COUNT, "written")
    return shapes


def opened(folder: Path, shapes: Shapes) -> dict[str, float]:
    """Time openings and queries, in ms of CPU, and the whole command, by the clock."""
    query = cones.load(folder / "00000.safetensors").using(drawn(5, shapes))
    (folder / INDEX).unlink(missing_ok=True)
    found = {"first_ms": 1000 * timed(lambda: Library(folder))[0]}
    library = Library(folder)
    asked: dict[str, Callable[[], object]] = {
        "again_ms": lambda: Library(folder),
        "find_ms": lambda: library.find(noun="cat", base="built-in"),
        "near_ms": lambda: library.near(query),
        "family_ms": lambda: library.family(query),
    }
    found |= {name: 1000 * timed(ask, REPEATS)[0] for name, ask in asked.items()}
    started = time.monotonic()
    command = [sys.executable, "-m", "cones", "library", str(folder), "--noun", "none"]
    subprocess.run(command, check=True, capture_output=True)
    found["command_seconds"] = time.monotonic() - started
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    found["index_bytes"], found["file_bytes"] = (folder / INDEX).stat().st_size, size / COUNT
    return found | {"files": COUNT, "neurons": float(len(query.mask))}


def read(shapes: Shapes) -> list[dict[str, Any]]:
    """Time the reading of a file of one level, for the built-in model and at full size."""
    rows, base = [], Fingerprint("any", "0" * 64, bytes(128))
    for key, parameters in {"built-in": shapes, "sd15": {"weight": (SD15,)}}.items():
        data = dumps(Concept((drawn(0, parameters),), (Word("V*", "cat"),), base))
        seconds, _ = timed(partial(loads, data), REPEATS)
        rows.append({"key": key, "bytes": len(data), "ms": 1000 * seconds})
    return rows


def results(work: Path, progress: Progress) -> dict[str, Any]:
    """Measure the ways to tell likeness, then a library of 10,000 files in ``work``."""
    torch.set_num_threads(1)
    shapes = written(work, progress)
    rows = [*compared("built-in", Mask.empty(shapes).total), *compared("sd15", SD15)]
    opening, files = opened(work, shapes), read(shapes)
    return {"opening": opening, "likeness": rows, "files": files, "density": DENSITY}
