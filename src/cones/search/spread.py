"""Share the parts of one search among the processes of ``accelerate launch``.

Every process runs the same search and computes some of its parts; then all hear all of them, or
their sum in the order of one process: results are the same to the bit, as long as the machine and
the parts are (``micro_batch`` cuts them, so a gradient of one part cannot be shared).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from itertools import islice
from typing import TypeAlias

import torch
from accelerate import PartialState
from torch import Tensor
from torch import distributed as group

Tensors: TypeAlias = tuple[Tensor, ...]
_SHARED: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def one_search() -> Iterator[str | None]:
    """Let all processes of a launch do the same search; without it each does its own.

    Gives the device that the launch has for this process, or None if there is no launch.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    before, device = _SHARED.set(launched), str(PartialState().device) if launched else None
    try:
        yield device
    finally:
        _SHARED.reset(before)


def place() -> tuple[int, int]:
    """Give the number of this process and the count of those that share a search."""
    alone = not (_SHARED.get() and group.is_available() and group.is_initialized())
    return (0, 1) if alone else (group.get_rank(), group.get_world_size())


def spread(parts: Iterable[Callable[[], Tensors]]) -> Iterator[Tensors]:
    """Compute parts, each in one of the processes, and give in each what all gave, in order."""
    (own, count), parts = place(), iter(parts)
    while taken := [*islice(parts, count)]:
        if count == 1:
            yield taken[0]()
            continue
        found = taken[own]() if own < len(taken) else ()
        for source in range(len(taken)):
            yield _heard(found, source, source == own)


def summed(parts: Iterable[Callable[[], Tensors]]) -> Tensors:
    """Add up what parts give, in at least float32, one after another in their order.

    Of several processes each computes a block of neighbours, and adds it to what it hears.
    """
    own, count = place()
    if count == 1:
        return reduce(_added, (part() for part in parts), ())
    parts, total = [*parts], ()
    block = -(-len(parts) // count)
    found = [part() for part in parts[own * block : (own + 1) * block]]
    for source in range(count):
        if own == source:
            total = reduce(_added, found, total)
        total = _heard(total, source, source == own)
    return total


def _added(total: Tensors, found: Tensors) -> Tensors:
    if total:
        return tuple(a + b for a, b in zip(total, found, strict=True))
    return tuple(each.to(torch.promote_types(each.dtype, torch.float32)) for each in found)


def _heard(found: Tensors, source: int, mine: bool) -> Tensors:
    """Tell all others of what was found here, or hear it: kinds and shapes, then the bytes."""
    told = [[(each.shape, each.dtype) for each in found] if mine else []]
    group.broadcast_object_list(told, src=source)
    home = "cuda" if group.get_backend() == "nccl" else "cpu"
    sizes = [shape.numel() * dtype.itemsize for shape, dtype in told[0]]
    data = torch.empty(sum(sizes), dtype=torch.uint8, device=home)
    if mine:
        torch.cat([each.to(home).reshape(-1).view(torch.uint8) for each in found], out=data)
    group.broadcast(data, src=source)
    cut = zip(data.split(sizes), told[0], strict=True)
    return found if mine else tuple(b.clone().view(kind).view(shape) for b, (shape, kind) in cut)
