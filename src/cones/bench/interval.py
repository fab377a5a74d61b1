"""Means of paired differences with 95 % intervals, by a bootstrap that respects the subjects.

Two seeds of one subject have much in common. The bootstrap therefore draws subjects first and
then, within each, its seeds: with one seed a subject it is the ordinary bootstrap.
"""

from collections.abc import Mapping, Sequence

import numpy as np

DRAWS = 10_000
LOW, HIGH = 0.025, 0.975


def interval(groups: Mapping[str, Sequence[float]], *, draws: int = DRAWS) -> dict[str, float]:
    """Give the mean over all values and the 95 % interval of the bootstrap over the groups.

    Args:
        groups: Values (paired differences, one a seed) by subject. Where some have more than
            others, as while a comparison is unfinished, each counts by its mean.
        draws: Resamples; they are the same on every call.

    Returns:
        ``mean``, ``low``, ``high``, and ``n``, the number of values.
    """
    if len({len(group) for group in groups.values()}) > 1:
        groups = {name: [float(np.mean(group))] for name, group in groups.items()}
    values = np.array([list(group) for group in groups.values()], dtype=np.float64)
    subjects, seeds = values.shape
    rng = np.random.default_rng(0)
    who = rng.integers(subjects, size=(draws, subjects, 1))
    which = rng.integers(seeds, size=(draws, subjects, seeds))
    means = values[who, which].mean((1, 2))
    low, high = np.quantile(means, (LOW, HIGH))
    return {
        "mean": float(values.mean()),
        "low": float(low),
        "high": float(high),
        "n": int(values.size),
    }


def paired(
    rows: Sequence[Mapping], left: str, right: str, figure: str, *, draws: int = DRAWS
) -> dict[str, float]:
    """Average ``row[left][figure] - row[right][figure]`` over rows of one subject and seed each.

    Both sides of a difference come from one row, that is from the same samples and noise.
    """
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["subject"], []).append(row[left][figure] - row[right][figure])
    return interval(groups, draws=draws)


def average(rows: Sequence[Mapping], side: str, figure: str) -> dict[str, float]:
    """Average ``row[side][figure]`` itself, with its interval."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["subject"], []).append(row[side][figure])
    return interval(groups)
