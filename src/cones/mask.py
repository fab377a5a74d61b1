"""Which parameters are the concept neurons of a subject.

The paper's mask ``M`` is 0 at a concept neuron and 1 elsewhere. A :class:`ConceptMask` stores the
*zeros* of ``M``, as sorted flat positions per parameter; booleans here are called ``hits`` and are
True at a concept neuron. This is the only place where the polarity is decided. A mask knows shapes
and positions, never values: what to write there is :mod:`cones.intervention`.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from cones.errors import MaskError


@dataclass(frozen=True, eq=False, repr=False)
class ConceptMask:
    """The concept neurons of one subject, or of several.

    ``a | b`` joins two subjects ("concatenating", Sec. 3.2), ``a & b`` is what they share
    (Fig. 4a), ``a - b`` what only the first has, ``a ^ b`` what exactly one has, ``a <= b`` asks
    whether ``b`` holds all of ``a``, and ``len(a)`` counts neurons. Operators return new masks;
    iterating gives the names of the searched parameters. The order of names never matters to
    equality, hash or digest.

    Attributes:
        shapes: Shape of every parameter that was searched, by its qualified name.
        indices: For the same names, flat row-major positions of the concept neurons, strictly
            increasing, on the CPU. Empty where a parameter holds none. Not to be written to.

    Raises:
        MaskError: The two mappings disagree, or positions are unsorted or out of range.
    """

    shapes: Mapping[str, tuple[int, ...]]
    indices: Mapping[str, Int64[Tensor, " neurons"]]

    def __post_init__(self) -> None:
        """Copy the mappings and refuse anything malformed."""
        shapes = {str(n): tuple(int(d) for d in shape) for n, shape in self.shapes.items()}
        if shapes.keys() != self.indices.keys():
            odd = sorted(shapes.keys() ^ self.indices.keys())
            raise MaskError(
                f"{odd[0]!r} is in only one of shapes and indices ({len(odd)} such names); "
                "expected the same names in both; pass an empty tensor where there is no neuron"
            )
        for name, shape in shapes.items():
            _require_positions(name, self.indices[name], numel=math.prod(shape))
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "indices", {n: self.indices[n].contiguous() for n in shapes})

    @classmethod
    def where(cls, hits: Mapping[str, Bool[Tensor, "..."]]) -> "ConceptMask":
        """Build the mask whose neurons are the True entries of ``hits``.

        Raises:
            MaskError: An entry is not boolean.
        """
        for name, hit in hits.items():
            if hit.dtype != torch.bool:
                raise MaskError(
                    f"hits[{name!r}] is {hit.dtype}, expected torch.bool; "
                    "compare first, e.g. score > tau"
                )
        return cls(
            {name: tuple(hit.shape) for name, hit in hits.items()},
            {name: hit.reshape(-1).nonzero().squeeze(1).cpu() for name, hit in hits.items()},
        )

    @classmethod
    def empty(cls, shapes: Mapping[str, tuple[int, ...]]) -> "ConceptMask":
        """Build the mask of ``shapes`` that holds no neuron (``M = 1``)."""
        return cls(shapes, {name: torch.empty(0, dtype=torch.int64) for name in shapes})

    def hits(self) -> dict[str, Bool[Tensor, "..."]]:
        """Return, per parameter, a new boolean tensor that is True at the neurons."""
        return {name: self._hits_of(name).view(shape) for name, shape in self.shapes.items()}

    def random_like(self, generator: torch.Generator) -> "ConceptMask":
        """Draw a mask with the same count in every parameter, positions uniform."""
        drawn = {}
        for name, index in self.indices.items():
            order = torch.randperm(math.prod(self.shapes[name]), generator=generator)
            drawn[name] = order[: len(index)].sort().values
        return ConceptMask(self.shapes, drawn)

    def restricted(self, names: Iterable[str]) -> "ConceptMask":
        """Keep only the parameters ``names``, in the order of this mask; the rest is forgotten.

        Raises:
            MaskError: A name was not searched.
        """
        kept = set(names)
        unknown = sorted(kept - self.shapes.keys())
        if unknown:
            raise MaskError(
                f"{unknown[0]!r} was not searched ({len(unknown)} such names); "
                f"expected names among {_few(self.shapes)}"
            )
        order = [name for name in self if name in kept]
        return ConceptMask(
            {name: self.shapes[name] for name in order},
            {name: self.indices[name] for name in order},
        )

    def widened(self, shapes: Mapping[str, tuple[int, ...]]) -> "ConceptMask":
        """Lay the mask over ``shapes``, which hold its own; it has no neuron in the others."""
        return ConceptMask(shapes, {**ConceptMask.empty(shapes).indices, **self.indices})

    def issubset(self, other: "ConceptMask") -> bool:
        """Say whether ``other`` holds every neuron of this mask."""
        self._require_same_sites(other)
        return all(bool(other._hits_of(n)[self.indices[n]].all()) for n in self)

    @cached_property
    def total(self) -> int:
        """Number of searched weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def density(self) -> float:
        """Share of the searched weights that are concept neurons, 0 if none was searched."""
        return len(self) / self.total if self.total else 0.0

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes and positions; the same in every process and name order."""
        sha = hashlib.sha256()
        for name in sorted(self.shapes):
            index = self.indices[name].numpy().astype("<i8", copy=False)
            sha.update(repr((name, self.shapes[name], len(index))).encode())
            sha.update(index.tobytes())
        return sha.hexdigest()

    def __or__(self, other: "ConceptMask") -> "ConceptMask":
        """Join two masks ("concatenating", Sec. 3.2)."""
        return self._combined(other, torch.logical_or)

    def __and__(self, other: "ConceptMask") -> "ConceptMask":
        """Keep what both masks hold (Fig. 4a)."""
        return self._combined(other, torch.logical_and)

    def __sub__(self, other: "ConceptMask") -> "ConceptMask":
        """Keep what only this mask holds."""
        return self._combined(other, torch.gt)

    def __xor__(self, other: "ConceptMask") -> "ConceptMask":
        """Keep what exactly one of the masks holds."""
        return self._combined(other, torch.logical_xor)

    def __le__(self, other: "ConceptMask") -> bool:
        """Say whether ``other`` holds every neuron of this mask."""
        return self.issubset(other) if isinstance(other, ConceptMask) else NotImplemented

    def __eq__(self, other: object) -> bool:
        """Compare names, shapes and positions."""
        if not isinstance(other, ConceptMask):
            return NotImplemented
        same_sites = self.shapes == other.shapes
        return same_sites and all(self.indices[n].equal(other.indices[n]) for n in self)

    def __hash__(self) -> int:
        """Hash the digest."""
        return hash(self.digest)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the searched parameters."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Count the concept neurons."""
        return sum(len(index) for index in self.indices.values())

    def __bool__(self) -> bool:
        """Say whether there is any concept neuron."""
        return len(self) > 0

    def __repr__(self) -> str:
        """Summarise size and density in one line."""
        return (
            f"ConceptMask({len(self):,} of {self.total:,} weights, {self.density:.2%}, "
            f"in {len(self.shapes)} parameters)"
        )

    def _hits_of(self, name: str) -> Bool[Tensor, " numel"]:
        flat = torch.zeros(math.prod(self.shapes[name]), dtype=torch.bool)
        flat[self.indices[name]] = True
        return flat

    def _combined(
        self, other: "ConceptMask", operator: Callable[[Tensor, Tensor], Tensor]
    ) -> "ConceptMask":
        if not isinstance(other, ConceptMask):
            return NotImplemented
        self._require_same_sites(other)
        combined = {}
        for name in self:  # one parameter at a time: booleans of a whole model are never held
            hits = operator(self._hits_of(name), other._hits_of(name))
            combined[name] = hits.nonzero().squeeze(1)
        return ConceptMask(self.shapes, combined)

    def _require_same_sites(self, other: "ConceptMask") -> None:
        if self.shapes == other.shapes:
            return
        names = sorted(self.shapes.keys() | other.shapes.keys())
        odd = next(n for n in names if self.shapes.get(n) != other.shapes.get(n))
        ours, theirs = (m.shapes.get(odd, "absent") for m in (self, other))
        raise MaskError(
            f"masks cover different parameters: {odd!r} is {ours} in one and {theirs} in the "
            "other; expected the same names and shapes; search both subjects on one base model "
            "and scope"
        )


def _require_positions(name: str, index: Tensor, *, numel: int) -> None:
    """Refuse anything but increasing int64 positions inside ``numel``."""
    if index.dtype != torch.int64 or index.ndim != 1 or index.device.type != "cpu":
        raise MaskError(
            f"indices[{name!r}] is {index.dtype} of shape {tuple(index.shape)} on {index.device}; "
            "expected int64, one dimension, on the CPU; use ConceptMask.where for booleans"
        )
    if len(index) == 0:
        return
    if index[0] < 0 or index[-1] >= numel or bool((index[1:] <= index[:-1]).any()):
        raise MaskError(
            f"indices[{name!r}] runs from {int(index.min())} to {int(index.max())} or is not "
            f"sorted; expected strictly increasing positions in [0, {numel}); sort them with "
            "torch.unique"
        )


def _few(names: Iterable[str], *, limit: int = 3) -> str:
    """List the first names for an error message."""
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
