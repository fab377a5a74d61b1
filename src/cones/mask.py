"""Which weights are the concept neurons of a subject.

The paper's mask ``M`` is 0 at a concept neuron and 1 elsewhere. A :class:`Mask` stores the *zeros*
of ``M``, as sorted flat positions per parameter; booleans here are called ``hits`` and are True at
a concept neuron. This is the only place where the polarity is decided. Set operations work on the
positions, so their memory never depends on the size of the model. A mask holds no values: what to
write there is :mod:`cones.intervention`.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cones.errors import MaskError

BINS = 64  # of |theta| in one parameter, equally full, for matched_like
NONE = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """The concept neurons of one subject, or of several: a set.

    ``a | b`` joins two subjects ("concatenation", Sec. 3.2), ``a & b`` is what they share
    (Fig. 4a), ``a - b`` what only the first has, ``a ^ b`` what exactly one has, ``a <= b`` asks
    whether ``b`` holds all of ``a``, and ``len(a)`` counts neurons. Operators return new masks;
    iterating gives the names of the searched parameters.

    Two masks may cover different parameters: a parameter that is absent holds no neuron, and
    masks with the same neurons are equal. ``a | b`` and ``a ^ b`` cover what either covers,
    ``a & b`` what both cover, ``a - b`` what ``a`` covers.

    Attributes:
        shapes: Shape of every parameter that was searched, by its qualified name.
        indices: For the same names, flat row-major positions of the concept neurons, strictly
            increasing, on the CPU. Empty where a parameter holds none. Not to be written to.

    Raises:
        MaskError: The two mappings disagree, or positions are unsorted or out of range.

    Example:
        >>> mask = Mask({"to_k.weight": (2, 3)}, {"to_k.weight": torch.tensor([0, 4])})
        >>> mask
        Mask(2 of 6 weights, 33.33%, in 1 parameter)
    """

    shapes: Mapping[str, tuple[int, ...]]
    indices: Mapping[str, Int64[Tensor, " _"]]

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
    def where(cls, hits: Mapping[str, Bool[Tensor, "..."]]) -> "Mask":
        """Build the mask whose neurons are the True entries of ``hits``.

        Raises:
            MaskError: An entry is not boolean.
        """
        for name, hit in hits.items():
            if hit.dtype != torch.bool:
                raise MaskError(
                    f"hits[{name!r}] is {hit.dtype}; expected torch.bool; "
                    "compare first, as in score > tau"
                )
        return cls(
            {name: tuple(hit.shape) for name, hit in hits.items()},
            {name: hit.reshape(-1).nonzero().squeeze(1).cpu() for name, hit in hits.items()},
        )

    @classmethod
    def empty(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Mask":
        """Build the mask over ``shapes`` that holds no neuron (``M = 1``)."""
        return cls(shapes, dict.fromkeys(shapes, NONE))

    def hits(self) -> dict[str, Bool[Tensor, "..."]]:
        """Return, per parameter, a new boolean tensor that is True at the neurons."""
        found = {}
        for name, shape in self.shapes.items():
            flat = torch.zeros(math.prod(shape), dtype=torch.bool)
            flat[self.indices[name]] = True
            found[name] = flat.view(shape)
        return found

    def restricted(self, names: Iterable[str]) -> "Mask":
        """Keep only the parameters ``names``, in the order of this mask; the rest is forgotten.

        Raises:
            MaskError: A name was not searched.
        """
        kept = set(names)
        unknown = sorted(kept - self.shapes.keys())
        if unknown:
            raise MaskError(
                f"{unknown[0]!r} was not searched ({len(unknown)} such names); expected names "
                f"among the {len(self.shapes)} of this mask, such as {next(iter(self), None)!r}; "
                "take names from mask.shapes"
            )
        shapes = {name: shape for name, shape in self.shapes.items() if name in kept}
        return Mask(shapes, {name: self.indices[name] for name in shapes})

    def random_like(self, generator: torch.Generator) -> "Mask":
        """Draw a mask with the same count in every parameter, positions uniform.

        The draw depends on the names, not on their order.
        """
        drawn = {
            name: _draw(len(self.indices[name]), math.prod(self.shapes[name]), generator)
            for name in sorted(self)
        }
        return Mask(self.shapes, drawn)

    def matched_like(
        self, weights: Mapping[str, Float[Tensor, "..."]], generator: torch.Generator
    ) -> "Mask":
        """Draw a mask with the same counts whose ``|theta|`` are distributed as in this one.

        A stricter control than :meth:`random_like`: in each parameter the 64 equally full bins
        of ``|theta|`` get as many neurons as they have here.

        Raises:
            MaskError: ``weights`` lacks a parameter of this mask, or has it in another shape.
        """
        drawn = {}
        for name in sorted(self):
            found = tuple(weights[name].shape) if name in weights else "absent"
            if found != self.shapes[name]:
                raise MaskError(
                    f"{name!r} is {found} in weights; expected shape {self.shapes[name]}; pass "
                    "the weights that were searched"
                )
            order = weights[name].detach().abs().reshape(-1).cpu().argsort(stable=True)
            rank = torch.empty_like(order)
            rank[order] = torch.arange(len(order))
            edges = torch.linspace(0, len(order), BINS + 1).long()
            bins = torch.bucketize(rank[self.indices[name]], edges, right=True) - 1
            counts = bins.bincount(minlength=BINS).tolist()
            parts = [
                order[low + _draw(count, int(high - low), generator)]
                for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
            ]
            drawn[name] = torch.cat(parts).sort().values
        return Mask(self.shapes, drawn)

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
        """SHA-256 over the neurons: equal masks have equal digests, in every process."""
        sha = hashlib.sha256()
        for name in sorted(self.shapes):
            index = self.indices[name].numpy().astype("<i8", copy=False)
            if len(index):
                sha.update(repr((name, self.shapes[name], len(index))).encode())
                sha.update(index.tobytes())
        return sha.hexdigest()

    def __or__(self, other: "Mask") -> "Mask":
        """Join two masks ("concatenation", Sec. 3.2)."""
        shapes = self._shapes_with(other)
        return Mask(
            shapes, {n: _sorted(self._at(n), _outside(other._at(n), self._at(n))) for n in shapes}
        )

    def __and__(self, other: "Mask") -> "Mask":
        """Keep what both masks hold (Fig. 4a)."""
        self._shapes_with(other)
        shapes = {n: shape for n, shape in self.shapes.items() if n in other.shapes}
        return Mask(shapes, {n: self._at(n)[_inside(self._at(n), other._at(n))] for n in shapes})

    def __sub__(self, other: "Mask") -> "Mask":
        """Keep what only this mask holds."""
        self._shapes_with(other)
        return Mask(self.shapes, {n: _outside(self._at(n), other._at(n)) for n in self})

    def __xor__(self, other: "Mask") -> "Mask":
        """Keep what exactly one of the masks holds."""
        return (self - other) | (other - self)

    def __le__(self, other: "Mask") -> bool:
        """Say whether ``other`` holds every neuron of this mask."""
        self._shapes_with(other)
        return all(bool(_inside(self._at(n), other._at(n)).all()) for n in self)

    def __eq__(self, other: object) -> bool:
        """Say whether both hold the same neurons."""
        if not isinstance(other, Mask):
            return NotImplemented
        return self.digest == other.digest

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
        plural = "" if len(self.shapes) == 1 else "s"
        return (
            f"Mask({len(self):,} of {self.total:,} weights, {self.density:.2%}, "
            f"in {len(self.shapes)} parameter{plural})"
        )

    def _at(self, name: str) -> Tensor:
        return self.indices.get(name, NONE)

    def _shapes_with(self, other: "Mask") -> dict[str, tuple[int, ...]]:
        """Join the shapes, or refuse two masks of different models."""
        for name, shape in self.shapes.items():
            theirs = other.shapes.get(name, shape)
            if theirs != shape:
                raise MaskError(
                    f"{name!r} has shape {shape} in one mask and {theirs} in the other; expected "
                    "masks of one model; search both subjects on the same base model"
                )
        return {**self.shapes, **other.shapes}


def _inside(a: Int64[Tensor, " a"], b: Int64[Tensor, " b"]) -> Bool[Tensor, " a"]:
    """Say which entries of ``a`` are in ``b``; both are sorted."""
    if not len(b):
        return torch.zeros(len(a), dtype=torch.bool)
    place = torch.searchsorted(b, a).clamp_(max=len(b) - 1)
    return b[place] == a


def _outside(a: Int64[Tensor, " a"], b: Int64[Tensor, " b"]) -> Int64[Tensor, " _"]:
    return a[~_inside(a, b)]


def _sorted(a: Int64[Tensor, " a"], b: Int64[Tensor, " b"]) -> Int64[Tensor, " _"]:
    return torch.cat([a, b]).sort().values


def _draw(count: int, numel: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
    """Draw ``count`` different positions below ``numel``, in memory proportional to ``count``."""
    if numel <= 8 * count:
        return torch.randperm(numel, generator=generator)[:count].sort().values
    drawn = NONE
    while len(drawn) < count:
        more = torch.randint(numel, (count + count // 4 + 8,), generator=generator)
        drawn = torch.cat([drawn, more]).unique()
    kept = torch.randperm(len(drawn), generator=generator)[:count]
    return drawn[kept].sort().values


def _require_positions(name: str, index: Tensor, *, numel: int) -> None:
    """Refuse anything but increasing int64 positions inside ``numel``."""
    if index.dtype != torch.int64 or index.ndim != 1 or index.device.type != "cpu":
        raise MaskError(
            f"indices[{name!r}] is {index.dtype} of shape {tuple(index.shape)} on {index.device}; "
            "expected int64, one dimension, on the CPU; use Mask.where for booleans"
        )
    if not len(index):
        return
    if index[0] < 0 or index[-1] >= numel or bool((index[1:] <= index[:-1]).any()):
        raise MaskError(
            f"indices[{name!r}] runs from {int(index.min())} to {int(index.max())} or is not "
            f"sorted; expected strictly increasing positions in [0, {numel}); sort them with "
            "torch.unique"
        )
