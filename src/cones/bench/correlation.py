"""How two figures of pairs go together: rank correlation, with intervals that respect subjects.

Pairs of fifteen subjects are not a hundred independent observations: each subject is in fourteen.
The bootstrap therefore draws subjects, and the test renames them.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Float

from cones.bench.interval import HIGH, LOW

Pairs = Mapping[tuple[str, str], float]
DRAWS = 2_000


def ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Rank from 0; equal values share the mean of their places."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - (counts + 1) / 2)[where]).astype(np.float64)


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Correlate the ranks, in [-1, 1]; 0 where one side does not vary."""
    a, b = (ranks(values) - (len(values) - 1) / 2 for values in (x, y))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def correlation(x: Pairs, y: Pairs, *, draws: int = DRAWS) -> dict[str, float]:
    """Correlate two figures over all pairs of subjects (Spearman).

    Args:
        x: A figure of every pair; a pair is sorted.
        y: Another of the same pairs.
        draws: Resamples of the subjects; renamings of the subjects.

    Returns:
        ``rho``; ``low`` and ``high``, 95 %, over resampled subjects (a pair counts as often as
        both were drawn; nobody is paired with himself); ``p``, the share of renamings of the
        subjects of ``x`` alone that give as strong a correlation of either sign (Mantel's test;
        with few subjects there are few renamings); ``pairs``.
    """
    names = sorted({name for pair in x for name in pair})
    places = list(combinations(range(len(names)), 2))
    first, second = (_square(figure, names) for figure in (x, y))
    i, j = np.array(places).T
    rho = spearman(first[i, j], second[i, j])
    rng, resampled, renamed = np.random.default_rng(0), [], 0
    for _ in range(draws):
        who = rng.integers(len(names), size=len(names))
        apart = who[i] != who[j]
        a, b = who[i[apart]], who[j[apart]]
        resampled.append(spearman(first[a, b], second[a, b]) if len(a) > 1 else 0.0)
        order = rng.permutation(len(names))
        renamed += abs(spearman(first[order[i], order[j]], second[i, j])) >= abs(rho) - 1e-12
    low, high = np.quantile(resampled, (LOW, HIGH))
    return {
        "rho": rho,
        "low": float(low),
        "high": float(high),
        "p": (renamed + 1) / (draws + 1),
        "pairs": len(places),
    }


def _square(figure: Pairs, names: list[str]) -> Float[np.ndarray, "n n"]:
    found = np.zeros((len(names), len(names)))
    for (a, b), value in figure.items():
        i, j = names.index(a), names.index(b)
        found[i, j] = found[j, i] = value
    return found
