"""Which weights are the concept neurons of a subject.

The paper's mask ``M`` is 0 at a concept neuron and 1 elsewhere. A :class:`Mask` stores the *zeros*
of ``M``, as sorted flat positions per parameter; booleans here are called ``hits`` and are True at
a concept neuron. This is the only place where the polarity is decided. Set operations work on the
positions, so their memory never depends on the size of the model. A mask holds no values: what to
write there is :mod:`cones.intervention`.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from cones.errors import MaskError

NONE = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """The concept neurons of one subject, or of several: a set.

    ``a | b`` joins two subjects (Sec. 3.2), ``a & b`` is what they share (Fig. 4a), ``a <= b``
    asks whether ``b`` holds all of ``a``, ``len(a)`` counts neurons, and iterating gives the names
    of the searched parameters. Two masks may cover different parameters: one that is absent holds
    no neuron. ``a | b`` and ``a ^ b`` cover what either covers, ``a & b`` what both cover,
    ``a - b`` what ``a`` covers.

    Attributes:
        shapes: Shape of every parameter that was searched, by its qualified name.
        indices: For the same names, flat row-major positions of the concept neurons, strictly
            increasing, on the CPU. Not to be written to.

    Raises:
        MaskError: The two mappings disagree, positions are unsorted or out of range, or masks
            of different models meet.

    Example:
        >>> Mask({"to_k.weight": (2, 3)}, {"to_k.weight": torch.tensor([0, 4])}).density
        0.3333333333333333
    """

    shapes: Mapping[str, tuple[int, ...]]
    indices: Mapping[str, Int64[Tensor, " _"]]

    def __post_init__(self) -> None:
        """Copy the mappings and refuse anything malformed."""
        shapes = {n: tuple(int(d) for d in shape) for n, shape in self.shapes.items()}
        if odd := sorted(shapes.keys() ^ self.indices.keys()):
            raise MaskError(
                f"{odd[0]!r} is in only one of shapes and indices ({len(odd)} such names); "
                "expected the same names in both; pass an empty tensor where there is no neuron"
            )
        for name, shape in shapes.items():
            index, numel = self.indices[name], math.prod(shape)
            flat = index.dtype == torch.int64 and index.ndim == 1 and index.device.type == "cpu"
            rising = flat and bool((index[1:] > index[:-1]).all())
            if not rising or (len(index) and not 0 <= index[0] <= index[-1] < numel):
                raise MaskError(
                    f"indices[{name!r}] are {index.dtype} of shape {tuple(index.shape)} on "
                    f"{index.device}, rising: {rising}; expected rising int64 positions in "
                    f"[0, {numel}) on the CPU; use Mask.where for booleans, or torch.unique"
                )
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "indices", {n: self.indices[n].contiguous() for n in shapes})

    @classmethod
    def where(cls, hits: Mapping[str, Bool[Tensor, "..."]]) -> "Mask":
        """Build the mask whose neurons are the True entries of ``hits``."""
        found = {}
        for name, hit in hits.items():
            if hit.dtype != torch.bool:
                raise MaskError(
                    f"hits[{name!r}] are {hit.dtype}; expected torch.bool; compare first, as in "
                    "score > tau"
                )
            found[name] = hit.reshape(-1).nonzero().squeeze(1).cpu()
        return cls({name: tuple(hit.shape) for name, hit in hits.items()}, found)

    @classmethod
    def empty(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Mask":
        """Build the mask over ``shapes`` that holds no neuron (``M = 1``)."""
        return cls(shapes, dict.fromkeys(shapes, NONE))

    def hits(self) -> dict[str, Bool[Tensor, "..."]]:
        """Return, per parameter, a new boolean tensor that is True at the neurons."""
        found = {n: torch.zeros(s, dtype=torch.bool) for n, s in self.shapes.items()}
        for name, hit in found.items():
            hit.view(-1)[self.indices[name]] = True
        return found

    def random_like(self, generator: torch.Generator) -> "Mask":
        """Draw a mask with the same count in every parameter, positions uniform."""
        seed = int(torch.randint(2**62, (), generator=generator))
        draw, drawn = np.random.default_rng(seed), {}
        for name in sorted(self):  # the order of the parameters must not matter
            numel, count = math.prod(self.shapes[name]), len(self.indices[name])
            places = draw.choice(numel, count, replace=False, shuffle=False)
            drawn[name] = torch.from_numpy(np.sort(places))
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
        for name in sorted(name for name in self if len(self.indices[name])):
            index = self.indices[name].numpy().astype("<i8", copy=False)
            sha.update(repr((name, self.shapes[name], len(index))).encode())
            sha.update(index.tobytes())
        return sha.hexdigest()

    def __or__(self, other: "Mask") -> "Mask":
        """Join two masks ("concatenation", Sec. 3.2)."""
        return self._combined(other, np.union1d, {**self.shapes, **other.shapes})

    def __and__(self, other: "Mask") -> "Mask":
        """Keep what both masks hold (Fig. 4a)."""
        both = [name for name in self if name in other.shapes]
        return self._combined(other, partial(np.intersect1d, assume_unique=True), both)

    def __sub__(self, other: "Mask") -> "Mask":
        """Keep what only this mask holds."""
        return self._combined(other, partial(np.setdiff1d, assume_unique=True), self)

    def __xor__(self, other: "Mask") -> "Mask":
        """Keep what exactly one of the masks holds."""
        return (self | other) - (self & other)

    def __le__(self, other: "Mask") -> bool:
        """Say whether ``other`` holds every neuron of this mask."""
        return not self - other

    def __eq__(self, other: object) -> bool:
        """Say whether both hold the same neurons."""
        return self.digest == other.digest if isinstance(other, Mask) else NotImplemented

    def __hash__(self) -> int:
        """Hash the digest."""
        return hash(self.digest)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the searched parameters."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Count the concept neurons."""
        return sum(len(index) for index in self.indices.values())

    def __repr__(self) -> str:
        """Summarise size and density in one line."""
        size = f"{len(self):,} of {self.total:,} weights, {self.density:.2%}"
        return f"Mask({size}, in {len(self.shapes)} parameters)"

    def _combined(
        self, other: "Mask", operation: Callable[..., np.ndarray], names: Iterable[str]
    ) -> "Mask":
        for name in self.shapes.keys() & other.shapes.keys():
            if self.shapes[name] != other.shapes[name]:
                raise MaskError(
                    f"{name!r} has shape {self.shapes[name]} in one mask and {other.shapes[name]} "
                    "in the other; expected masks of one model; search both on the same base model"
                )
        known = {**self.shapes, **other.shapes}
        shapes = {name: known[name] for name in names}
        pairs = {n: (self.indices.get(n, NONE), other.indices.get(n, NONE)) for n in shapes}
        found = {n: operation(a.numpy(), b.numpy()) for n, (a, b) in pairs.items()}
        return Mask(shapes, {n: torch.from_numpy(index) for n, index in found.items()})
