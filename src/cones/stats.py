"""Where concept neurons lie, and how much concepts share (Sec. 3.2, Fig. 4).

Plain numbers in plain dictionaries, for tables and plots. Nothing here looks at weights or at
images: a mask is enough. Names follow diffusers: ``attn1`` is self-attention, ``attn2`` is
cross-attention, ``to_k`` makes keys and ``to_v`` values. Inside a layer looks
:mod:`cones.layout`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cones.errors import MaskError
from cones.mask import ConceptMask

ATTENTION = {"attn1": "self", "attn2": "cross"}
ROLES = {"to_k": "K", "to_v": "V"}
ORDER = {word: rank for rank, word in enumerate(("self", "cross", "K", "V", "other"))}


def density_per_site(mask: ConceptMask) -> dict[str, float]:
    """Return the share of concept neurons in every parameter, 0 where it has no entry."""
    return {
        name: len(index) / max(math.prod(mask.shapes[name]), 1)
        for name, index in mask.indices.items()
    }


def overlap(a: ConceptMask, b: ConceptMask) -> dict[str, Any]:
    """Count what two concepts share (Fig. 4a), beside what chance would give.

    Chance is two random masks with as many neurons in every parameter: their overlap is
    hypergeometric in each parameter, and parameters are independent.

    Returns:
        ``first`` and ``second``, the sizes; ``shared`` and ``union``; ``jaccard``, the share of
        the union that is shared (0 for two empty masks); ``expected`` and ``deviation``, mean and
        standard deviation by chance; ``z``, the distance from it in standard deviations, None
        where chance leaves no choice.

    Raises:
        MaskError: The masks are of different models.
    """
    return _summed(overlap_per_site(a, b).values())


def overlap_per_site(a: ConceptMask, b: ConceptMask) -> dict[str, dict[str, Any]]:
    """Do what :func:`overlap` does for every parameter.

    Raises:
        MaskError: The masks are of different models.
    """
    both = a & b
    return {
        name: _row(
            len(a.indices[name]),
            len(b.indices[name]),
            len(both.indices[name]),
            math.prod(a.shapes[name]),
        )
        for name in a
    }


def overlap_within(
    a: ConceptMask, b: ConceptMask, groups: Mapping[str, Int64[Tensor, "..."]]
) -> dict[str, Any]:
    """Do what :func:`overlap` does, with chance that keeps the number of neurons in every group.

    Two concepts may share more than chance only because both prefer, say, small weights: with
    groups of weights of one size, that is part of what is expected.

    Args:
        a: A mask.
        b: Another of the same model.
        groups: The number of its group, from 0, for every weight of every parameter.

    Raises:
        MaskError: The masks are of different models.
    """
    both, rows = a & b, []
    for name in a:
        flat = groups[name].reshape(-1)
        count = int(flat.max()) + 1 if len(flat) else 0
        sizes = [
            torch.bincount(flat[where], minlength=count).tolist()
            for where in (a.indices[name], b.indices[name], both.indices[name])
        ]
        totals = torch.bincount(flat, minlength=count).tolist()
        rows += [_row(*each) for each in zip(*sizes, totals, strict=True)]
    return _summed(rows)


def _row(first: int, second: int, shared: int, total: int) -> dict[str, Any]:
    """Compare an overlap with the hypergeometric distribution."""
    p, q = first / max(total, 1), second / max(total, 1)
    # n p (1 - p) with the finite population's correction: drawn without putting back.
    variance = second * p * (1 - p) * (total - second) / (total - 1) if total > 1 else 0.0
    return _compared(first, second, shared, p * q * total, variance)


def _summed(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up independent parts: means and variances add."""
    found = list(rows)
    counts = [sum(row[key] for row in found) for key in ("first", "second", "shared", "expected")]
    return _compared(*counts, sum(row["deviation"] ** 2 for row in found))


def _compared(
    first: int, second: int, shared: int, expected: float, variance: float
) -> dict[str, Any]:
    union, deviation = first + second - shared, math.sqrt(variance)
    return {
        "first": first,
        "second": second,
        "shared": shared,
        "union": union,
        "jaccard": shared / union if union else 0.0,
        "expected": float(expected),
        "deviation": deviation,
        "z": (shared - expected) / deviation if deviation else None,
    }


def multiplicity(masks: Sequence[ConceptMask]) -> list[dict[str, float]]:
    """Count the weights that exactly k concepts hold, for k = 0, 1, ... all of them.

    Returns:
        A row for each k: ``concepts`` (k), ``weights``, and ``expected`` by chance, as in
        :func:`overlap` (the Poisson binomial distribution, parameter by parameter).

    Raises:
        MaskError: There is no mask, or they are of different models.
    """
    found = [0] * (len(masks) + 1)
    expected = np.zeros(len(masks) + 1)
    for name in same_sites(masks):
        total = math.prod(masks[0].shapes[name])
        held = torch.bincount(times_held(masks, name), minlength=len(found))
        found = [k + more for k, more in zip(found, held.tolist(), strict=True)]
        chance = np.ones(1)
        for mask in masks:
            p = len(mask.indices[name]) / max(total, 1)
            chance = np.convolve(chance, [1 - p, p])
        expected += total * chance
    return [
        {"concepts": k, "weights": count, "expected": float(by_chance)}
        for k, (count, by_chance) in enumerate(zip(found, expected, strict=True))
    ]


def times_held(masks: Sequence[ConceptMask], name: str) -> Int64[Tensor, " weights"]:
    """Count for every weight of one parameter, flat, how many concepts hold it."""
    held = torch.zeros(math.prod(masks[0].shapes[name]), dtype=torch.int64)
    for mask in masks:
        held[mask.indices[name]] += 1
    return held


def same_sites(masks: Sequence[ConceptMask]) -> ConceptMask:
    """Give the first of masks that all cover the same parameters.

    Raises:
        MaskError: They do not, or there is none.
    """
    if not masks or any(mask.shapes != masks[0].shapes for mask in masks):
        raise MaskError(
            f"found {len(masks)} masks of no or of different models; expected one or more of the "
            "same names and shapes; search them on one base model and scope"
        )
    return masks[0]


def by_kind(mask: ConceptMask) -> list[dict[str, str | int | float]]:
    """Tabulate neurons by attention (self, cross) and role (K, V).

    Returns:
        One row for each combination that was searched, in that order, with ``attention``,
        ``role``, ``neurons``, ``total`` and ``density``; what is neither is called ``other``.
    """
    rows = tabulated(mask, kind_of)
    rows.sort(key=lambda row: [ORDER[word] for word in row[0]])
    return [{"attention": key[0], "role": key[1], **count} for key, count in rows]


def tabulated(
    mask: ConceptMask, key_of: Callable[[str], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Count neurons and weights over the parameters that ``key_of`` gives one key."""
    counts: dict[tuple[str, ...], list[int]] = {}
    for name, index in mask.indices.items():
        count = counts.setdefault(key_of(name), [0, 0])
        count[0] += len(index)
        count[1] += math.prod(mask.shapes[name])
    return [
        (key, {"neurons": neurons, "total": total, "density": neurons / max(total, 1)})
        for key, (neurons, total) in counts.items()
    ]


def kind_of(name: str) -> tuple[str, str]:
    """Read attention and role off a parameter's name; ``other`` where it tells neither."""
    parts = name.split(".")
    attention = next((ATTENTION[p] for p in parts if p in ATTENTION), "other")
    return attention, next((ROLES[p] for p in parts if p in ROLES), "other")
