"""Share the parts of one search among the processes of ``accelerate launch``.

Every process runs the same search. Of each round of parts it computes its own, and then all hear
all of them, in the order in which one process would have computed them: what is added up is the
same to the bit, as long as machine and parts are (``micro_batch`` cuts them).
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


def _heard(found: Tensors, source: int, mine: bool) -> Tensors:
    """Tell all others of what was found here, or hear it."""
    told = [[(each.shape, each.dtype) for each in found] if mine else []]
    group.broadcast_object_list(told, src=source)
    widest = reduce(torch.promote_types, [dtype for _, dtype in told[0]])
    home = "cuda" if group.get_backend() == "nccl" else "cpu"
    sizes = [shape.numel() for shape, _ in told[0]]
    data = torch.empty(sum(sizes), dtype=widest, device=home)
    if mine:
        torch.cat([each.to(home, widest).flatten() for each in found], out=data)
    group.broadcast(data, src=source)
    cut = zip(data.split(sizes), told[0], strict=True)
    return found if mine else tuple(part.view(shape).to(dtype) for part, (shape, dtype) in cut)
