"""What two concepts share, beside what independent masks would share (Fig. 4a).

Chance is two random masks with as many neurons in every layer (or head): their overlap is
hypergeometric there, and layers are independent, so means and variances add. Layers that only one
concept searched are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from cones.analysis.places import block_of, in_heads, kind_of
from cones.concept import Concept
from cones.mask import Mask

Given = Mask | Concept


@dataclass(frozen=True)
class Overlap:
    """Neurons of two masks among ``weights``; ``+`` adds up independent parts.

    ``expected`` and ``variance`` are those of ``shared`` if the masks were independent.
    """

    first: int = 0
    second: int = 0
    shared: int = 0
    expected: float = 0.0
    variance: float = 0.0
    weights: int = 0

    @classmethod
    def of(cls, first: int, second: int, shared: int, weights: int) -> "Overlap":
        """Compare counts among ``weights`` with the hypergeometric distribution."""
        p, q = first / max(weights, 1), second / max(weights, 1)
        # n p (1 - p) with the finite population's correction: drawn without putting back.
        spread = second * p * (1 - p) * (weights - second) / max(weights - 1, 1)
        return cls(first, second, shared, p * q * weights, spread, weights)

    def __add__(self, other: "Overlap") -> "Overlap":
        """Add up two independent parts."""
        return Overlap(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def jaccard(self) -> float:
        """Share of the union that both hold, in [0, 1]; 0 for two empty masks."""
        return self.shared / max(self.first + self.second - self.shared, 1)

    @property
    def jaccard_by_chance(self) -> float:
        """The Jaccard index of the overlap expected of independent masks."""
        return self.expected / max(self.first + self.second - self.expected, 1)

    @property
    def z(self) -> float | None:
        """Distance of ``shared`` from chance in standard deviations; None without any choice."""
        return (self.shared - self.expected) / math.sqrt(self.variance) if self.variance else None


def overlap(a: Given, b: Given) -> Overlap:
    """Count what two concepts share, in all layers together (Fig. 4a).

    Raises:
        MaskError: A layer has two shapes: the concepts are of different models.
    """
    return sum(by_layer(a, b).values(), Overlap())


def by_layer(a: Given, b: Given) -> dict[str, Overlap]:
    """Count what two concepts share in every layer; raises what :func:`overlap` raises."""
    a, b, both = _masks(a, b)
    found = {}
    for name in both:
        first, second, shared = (len(mask.indices[name]) for mask in (a, b, both))
        found[name] = Overlap.of(first, second, shared, math.prod(a.shapes[name]))
    return found


def by_block(a: Given, b: Given) -> dict[tuple[str, str], Overlap]:
    """Add up what two concepts share by block and kind, such as ``("up 1", "cross V")``."""
    found: dict[tuple[str, str], Overlap] = {}
    for name, row in by_layer(a, b).items():
        key = block_of(name), kind_of(name)
        found[key] = found.get(key, Overlap()) + row
    return found


def by_head(a: Given, b: Given, heads: Mapping[str, int]) -> dict[tuple[str, int], Overlap]:
    """Count what two concepts share in every head (from 0) of the layers named in ``heads``.

    Chance keeps the number of neurons in every head here: a common liking for one is expected.

    Raises:
        MaskError: As :func:`overlap`, or a layer cannot be dealt out to its heads.
    """
    a, b, both = _masks(a, b)
    found = {}
    for name in [name for name in both if name in heads]:
        each = [in_heads(mask, name, heads=heads[name]).tolist() for mask in (a, b, both)]
        weights = math.prod(a.shapes[name]) // heads[name]
        for head, (first, second, shared) in enumerate(zip(*each, strict=True)):
            found[name, head] = Overlap.of(first, second, shared, weights)
    return found


def _masks(a: Given, b: Given) -> tuple[Mask, Mask, Mask]:
    """Give both masks and what they share; its layers are those that both searched."""
    a, b = (each.mask if isinstance(each, Concept) else each for each in (a, b))
    return a, b, a & b
