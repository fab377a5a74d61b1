"""Turn scores into concept neurons: by threshold (Eq. A20), or by the share of weights to shut.

Scores have no natural scale, so the target density is the knob and ``tau`` its result. First-order
theory fails where ``|theta|`` is large, because shutting is a full step to zero: ``guard`` leaves
such weights alone. Selection is exact and deterministic: ties go to the parameter whose name sorts
first, then to the lower position, so that masks of growing density are nested.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cones.errors import SearchError
from cones.mask import ConceptMask

Scores = Mapping[str, Tensor]
Hits = dict[str, Bool[Tensor, "..."]]

PER = ("model", "site")


def select(
    score: Scores,
    weights: Mapping[str, Tensor],
    *,
    density: float | None = None,
    tau: float | None = None,
    per: str = "model",
    guard: float | None = None,
    within: ConceptMask | None = None,
) -> ConceptMask:
    """Keep the highest positive scores, or all above ``tau`` (Eq. A20).

    Args:
        score: ``M_p`` per weight, or anything that ranks alike; only positive ones are kept.
        weights: The searched weights, of the same names and shapes.
        density: Share of all searched weights to keep. Exact, unless fewer are eligible.
        tau: Threshold in the units of ``score``; give this or ``density``.
        per: ``"model"`` ranks all parameters together, ``"site"`` applies ``density`` to each.
        guard: Keep only weights with ``|theta| < guard * std`` of their parameter.
        within: Keep only neurons of this mask ("collaboratively capturing", Sec. 3.3).

    Raises:
        SearchError: The request is impossible, names or shapes differ, or a score is not finite.
    """
    require_match(score, weights)
    _require_finite(score)
    if (density is None) == (tau is None):
        raise SearchError(
            f"density is {density} and tau is {tau}, expected exactly one of them; "
            "the paper's density for one subject is 0.0132"
        )
    allowed = eligible(weights, guard=guard, within=within)
    hits = {name: (s > 0) & allowed[name] for name, s in score.items()}
    if tau is not None:
        if not tau > 0:
            raise SearchError(f"tau is {tau}, expected more than 0 (Algorithm 1); raise it")
        return ConceptMask.where({n: hits[n] & (s > tau) for n, s in score.items()})  # Eq. A20
    return ConceptMask.where(mark(score, hits, counts=quota(weights, density, per=per)))


def nested(
    score: Scores,
    weights: Mapping[str, Tensor],
    densities: Iterable[float],
    *,
    per: str = "model",
    guard: float | None = None,
    within: ConceptMask | None = None,
) -> tuple[ConceptMask, ...]:
    """Select at several densities; each mask holds the one before (Eq. A20).

    Args:
        score: As for :func:`select`.
        weights: As for :func:`select`.
        densities: Strictly increasing.
        per: As for :func:`select`.
        guard: As for :func:`select`.
        within: As for :func:`select`.

    Raises:
        SearchError: As for :func:`select`, or the densities do not increase.
    """
    densities = tuple(densities)
    if not densities or any(b <= a for a, b in zip(densities, densities[1:], strict=False)):
        raise SearchError(
            f"densities are {densities}, expected at least one, strictly increasing; sort them"
        )
    levels: list[ConceptMask] = []
    for density in reversed(densities):  # the wider level narrows what has to be ranked
        within = select(score, weights, density=density, per=per, guard=guard, within=within)
        guard = None
        levels.insert(0, within)
    return tuple(levels)


def implied_tau(score: Scores, mask: ConceptMask) -> float:
    """Return the largest ``tau`` whose Eq. A20 keeps all of ``mask``, or infinity if it is empty.

    Without guard, ``within`` and ties, selecting by this ``tau`` gives ``mask`` again. With
    ``per="site"`` every parameter has its own; this is the lowest.

    Raises:
        SearchError: Names or shapes differ.
    """
    require_match(score, mask.shapes)
    lowest = math.inf
    for name, index in mask.indices.items():
        if len(index):
            found = score[name].reshape(-1)[index.to(score[name].device)].min()
            below = torch.nextafter(found, torch.full_like(found, -math.inf))
            lowest = min(lowest, float(below))
    return lowest


def eligible(
    weights: Mapping[str, Tensor], *, guard: float | None, within: ConceptMask | None
) -> Hits:
    """Mark the weights that may be shut: ``|theta| < guard * std``, and in ``within``.

    Raises:
        SearchError: The guard is not positive, or ``within`` covers other parameters.
    """
    if guard is not None and not guard > 0:
        raise SearchError(f"guard is {guard}, expected more than 0, e.g. 1.5; or None for none")
    inside = {}
    if within is not None:
        require_match(weights, within.shapes)
        inside = within.hits()
    marked = {}
    for name, weight in weights.items():
        marked[name] = torch.ones_like(weight, dtype=torch.bool)
        if guard is not None:
            theta = weight.detach().float()
            marked[name] &= theta.abs() < guard * theta.std(correction=0)
        if within is not None:
            marked[name] &= inside[name].to(weight.device)
    return marked


def quota(weights: Mapping[str, Tensor], density: float, *, per: str) -> dict[str | None, int]:
    """Count how many weights a density means, per parameter or (key None) in the whole model.

    Raises:
        SearchError: The density is not in (0, 1], or ``per`` is unknown.
    """
    if not 0 < density <= 1:
        raise SearchError(f"density is {density}, expected a share in (0, 1]; 1 % is 0.01")
    if per not in PER:
        raise SearchError(f"per is {per!r}, expected one of {PER}; choose one")
    sizes = {name: w.numel() for name, w in weights.items()}
    if per == "model":
        sizes = {None: sum(sizes.values())}
    return {name: round(density * size) for name, size in sizes.items()}


def mark(score: Scores, allowed: Hits, *, counts: Mapping[str | None, int]) -> Hits:
    """Mark the highest allowed scores: ``counts[None]`` over all, or ``counts[name]`` in each."""
    if None in counts:
        return _mark_together(score, allowed, count=counts[None])
    hits = {}
    for name in score:
        hits |= _mark_together({name: score[name]}, {name: allowed[name]}, count=counts[name])
    return hits


def _mark_together(score: Scores, allowed: Hits, *, count: int) -> Hits:
    """Mark the ``count`` highest allowed scores, or all allowed if there are no more."""
    if count <= 0:
        return {name: torch.zeros_like(hit) for name, hit in allowed.items()}
    pool = torch.cat([score[name][allowed[name]] for name in sorted(score)])
    if count >= len(pool):
        return {name: hit.clone() for name, hit in allowed.items()}
    cut = _nth_largest(pool, count)
    del pool
    hits = {name: allowed[name] & (s > cut) for name, s in score.items()}
    missing = count - sum(int(hit.sum()) for hit in hits.values())
    for name in sorted(score):
        if missing == 0:
            break
        ties = (allowed[name] & (score[name] == cut)).reshape(-1).nonzero()[:missing, 0]
        hits[name].view(-1)[ties] = True
        missing -= len(ties)
    return hits


def _nth_largest(pool: Float[Tensor, " n"], count: int) -> Float[Tensor, ""]:
    """Return the value of rank ``count`` from the top; each device has one fast way."""
    if pool.device.type == "cpu":
        return pool.kthvalue(len(pool) - count + 1).values
    return pool.topk(count, sorted=False).values.min()


def require_match(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuse two mappings (of tensors or shapes) that differ in names or shapes.

    Raises:
        SearchError: They differ.
    """
    ours, theirs = ({n: _shape(v) for n, v in m.items()} for m in (found, expected))
    if ours == theirs:
        return
    odd = next(n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n))
    raise SearchError(
        f"{odd!r} is {ours.get(odd, 'absent')} in one and {theirs.get(odd, 'absent')} in the "
        "other; expected the same names and shapes; use weights, scores and masks of one model "
        "and scope"
    )


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape if isinstance(value, Tensor) else value)


def _require_finite(score: Scores) -> None:
    for name, s in score.items():
        if not bool(s.isfinite().all()):
            raise SearchError(
                f"the score of {name!r} holds NaN or infinity, expected finite numbers; "
                "repeat the search at a lower rate"
            )
