"""Where concept neurons lie, and how much two concepts share (Sec. 3.2, Fig. 4).

Plain numbers in plain dictionaries, for tables and plots. Nothing here looks at weights or at
images: a mask is enough. Names follow diffusers: ``attn1`` is self-attention, ``attn2`` is
cross-attention, ``to_k`` makes keys and ``to_v`` values.
"""

import math

from cones.mask import ConceptMask

ATTENTION = {"attn1": "self", "attn2": "cross"}
ROLES = {"to_k": "K", "to_v": "V"}


def density_per_site(mask: ConceptMask) -> dict[str, float]:
    """Return the share of concept neurons in every parameter, 0 where it has no entry."""
    return {
        name: len(index) / max(math.prod(mask.shapes[name]), 1)
        for name, index in mask.indices.items()
    }


def overlap(a: ConceptMask, b: ConceptMask) -> dict[str, float]:
    """Count what two concepts share (Fig. 4a).

    Returns:
        ``shared`` neurons; ``jaccard``, their share of the union (0 for two empty masks); and
        ``expected``, the count that random masks with the same number of neurons in every
        parameter would share on average.

    Raises:
        MaskError: The masks are of different models.
    """
    shared, union = len(a & b), len(a | b)
    expected = sum(
        len(a.indices[name]) * len(b.indices[name]) / max(math.prod(a.shapes[name]), 1)
        for name in a
    )
    return {"shared": shared, "jaccard": shared / union if union else 0.0, "expected": expected}


def by_kind(mask: ConceptMask) -> list[dict[str, str | int | float]]:
    """Tabulate neurons by attention (self, cross) and role (K, V).

    Returns:
        One row for each combination that was searched, in that order, with ``attention``,
        ``role``, ``neurons``, ``total`` and ``density``; what is neither is called ``other``.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for name, index in mask.indices.items():
        count = counts.setdefault(_kind(name), [0, 0])
        count[0] += len(index)
        count[1] += math.prod(mask.shapes[name])
    order = {word: rank for rank, word in enumerate(("self", "cross", "K", "V", "other"))}
    return [
        {
            "attention": attention,
            "role": role,
            "neurons": neurons,
            "total": total,
            "density": neurons / max(total, 1),
        }
        for (attention, role), (neurons, total) in sorted(
            counts.items(), key=lambda item: [order[word] for word in item[0]]
        )
    ]


def _kind(name: str) -> tuple[str, str]:
    parts = name.split(".")
    attention = next((ATTENTION[p] for p in parts if p in ATTENTION), "other")
    return attention, next((ROLES[p] for p in parts if p in ROLES), "other")
