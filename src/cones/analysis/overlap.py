"""What two masks share, beside what independent ones would share (Fig. 4a).

Chance is two random masks with as many neurons in every layer: their overlap is hypergeometric
there, and layers are independent, so means and variances add. Layers that only one mask covers
are left out.
"""

import math
from dataclasses import astuple, dataclass

from cones.mask import Mask

KINDS = {"attn1": "self", "attn2": "cross", "to_k": "K", "to_v": "V"}


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


def overlap(a: Mask, b: Mask) -> Overlap:
    """Count what two masks of one model share, in all layers together (Fig. 4a)."""
    return sum(by_block(a, b).values(), Overlap())


def by_block(a: Mask, b: Mask) -> dict[tuple[str, str], Overlap]:
    """Count what two masks share by block and kind, such as ``("up 1", "cross V")``."""
    both, found = a & b, dict[tuple[str, str], Overlap]()
    for name in both:
        first, second, shared = (len(mask.indices[name]) for mask in (a, b, both))
        layer = Overlap.of(first, second, shared, math.prod(a.shapes[name]))
        key = block_of(name), kind_of(name)
        found[key] = found.get(key, Overlap()) + layer
    return found


def block_of(name: str) -> str:
    """Name the block that a parameter is in, such as ``down 0`` or ``mid``."""
    stage, number = name.split(".")[:2] if "." in name else (name, "")
    return stage.replace("_blocks", f" {number}").removesuffix("_block")


def kind_of(name: str) -> str:
    """Name attention and projection, such as ``cross V``; ``other`` where the name tells none."""
    words = [KINDS[part] for part in name.split(".") if part in KINDS]
    return " ".join(words) if len(words) == 2 else "other"
