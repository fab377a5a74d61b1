"""Improve on one-shot selection where weights interact (beyond the paper; see Sec. 3.1).

The paper's criterion rates each weight as if it were shut alone and slightly. :func:`refine`
keeps the number of neurons and moves them by gradients measured with the mask in place;
:func:`shut_in_rounds` shuts a few, measures anew, and goes on. Both give plain masks. Neither
looks at held-out samples: whether a mask is better is for the caller to measure.
"""

from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor

from cones.errors import SearchError
from cones.gradient import (
    Losses,
    Scores,
    Weights,
    add_moments,
    climb,
    consistency,
    differentiate,
    require_rate,
    searchable,
    wide,
    zeros,
)
from cones.mask import ConceptMask
from cones.select import PER, Hits, eligible, mark, quota, require_match
from cones.state import Progress, SearchState, begin

_SPAN = 2.0


def refine(
    losses: Losses,
    weights: Weights,
    mask: ConceptMask,
    *,
    steps: int,
    rate: float,
    ranking: Mapping[str, Tensor] | None = None,
    per: str = "model",
    guard: float | None = None,
    within: ConceptMask | None = None,
    densities: Sequence[float] = (),
    epsilon: float = 1e-8,
    state: SearchState | None = None,
) -> Generator[Progress, None, ConceptMask]:
    """Exchange neurons at fixed count by straight-through gradients.

    Every weight has a latent score; the highest are shut, and all scores, also those of weights
    that are not shut, follow ``-dL/dshut = theta * dL/dgamma`` by Adam. Scores start at 0 on the
    border of ``mask`` and at about -1 for a typical weight outside; ``rate`` is on that scale.

    The *last* mask is the result: a running mean of losses compares draws of noise more than
    masks. To pick by held-out loss, drain with ``steps=50``, then with ``steps=100`` and the same
    ``state``, and so on: each gives the mask so far.

    Args:
        losses: The loss of step ``k``, counted from 0.
        weights: The searched weights; read only.
        mask: Where to start.
        steps: Number of gradients.
        rate: How far a score moves in a step, at most about.
        ranking: The scores ``mask`` was selected by; without, neurons start at 1, others at -1.
        per: ``"model"`` lets neurons move between parameters, ``"site"`` only inside each.
        guard: Shut only weights with ``|theta| < guard * std`` of their parameter.
        within: Shut only neurons of this mask.
        densities: Measure every second gradient with a mask of another density in place, these in
            turn, so that the scores make good masks there too (cut them from the state's
            ``latent``).
        epsilon: Adam's; products ``theta * dL/dgamma`` well below it hardly count.
        state: Where to go on; changed in place.

    Returns:
        A generator to be drained with :func:`cones.state.run`; its value is the refined mask.

    Raises:
        SearchError: The request is impossible, ``mask`` holds weights that ``guard`` or ``within``
            exclude, or (while running) a loss or gradient is not finite. The state is that of the
            last complete step in that case.
    """
    require_rate(rate)
    weights = searchable(weights)
    counts = _counts(mask, weights, per=per)
    allowed = eligible(weights, guard=guard, within=within)
    _require_allowed(mask, allowed)
    others = [quota(weights, density, per=per) for density in densities]
    settings = {"rate": rate, "per": per, "epsilon": epsilon, "mask": mask.digest}
    settings |= {"guard": guard, "within": within.digest if within is not None else None}
    settings |= {"densities": list(densities)}

    def start() -> dict[str, Scores]:
        latent = _latent(mask, weights, ranking, per=per)
        return {"latent": latent, "first": zeros(weights), "second": zeros(weights)}

    state = begin(state, weights, engine="refine", steps=steps, settings=settings, start=start)
    return _exchange(losses, weights, state, steps, [counts, *others], allowed)


def shut_in_rounds(
    losses: Losses,
    weights: Weights,
    *,
    density: float,
    rounds: int,
    steps: int,
    by: str = "consistency",
    per: str = "model",
    guard: float | None = None,
    within: ConceptMask | None = None,
    state: SearchState | None = None,
) -> Generator[Progress, None, tuple[ConceptMask, ...]]:
    """Shut an equal share per round, scored with all earlier ones in place (Eq. 8, repeated).

    Args:
        losses: The loss of step ``k``, counted from 0 over all rounds.
        weights: The searched weights; read only.
        density: Share of all searched weights that is shut after the last round.
        rounds: Number of rounds, at most 255.
        steps: Number of gradients in *each* round.
        by: ``"consistency"`` (mean over RMS of ``theta * dL/dtheta``) or ``"sum"`` (``M_p``).
        per: ``"model"`` ranks all parameters together, ``"site"`` applies ``density`` to each.
        guard: Shut only weights with ``|theta| < guard * std`` of their parameter.
        within: Shut only neurons of this mask.
        state: Where to go on; changed in place.

    Returns:
        A generator to be drained with :func:`cones.state.run`; its value is the mask after each
        round, each holding the one before. Only weights of positive score are shut, so a mask may
        hold fewer than its share.

    Raises:
        SearchError: As for :func:`refine`.
    """
    if not 1 <= rounds <= 255 or steps < 1:
        raise SearchError(f"found rounds={rounds} of steps={steps}, expected 1-255 of at least 1")
    if by not in ("consistency", "sum"):
        raise SearchError(f"by is {by!r}, expected 'consistency' or 'sum'; choose one")
    weights = searchable(weights)
    goals = [quota(weights, density * (r + 1) / rounds, per=per) for r in range(rounds)]
    allowed = eligible(weights, guard=guard, within=within)
    settings = {"density": density, "rounds": rounds, "steps": steps, "by": by, "per": per}
    settings |= {"guard": guard, "within": within.digest if within is not None else None}

    def start() -> dict[str, Scores]:
        opened = {n: torch.zeros_like(w, dtype=torch.uint8) for n, w in weights.items()}
        return {"round": opened, "total": zeros(weights), "square": zeros(weights)}

    state = begin(
        state, weights, engine="rounds", steps=rounds * steps, settings=settings, start=start
    )
    return _advance(losses, weights, state, steps, goals, allowed)


def _exchange(
    losses: Losses,
    weights: dict[str, Tensor],
    state: SearchState,
    steps: int,
    counts: list[dict[str | None, int]],
    allowed: Hits,
) -> Generator[Progress, None, ConceptMask]:
    """Run :func:`refine` from ``state`` on; ``counts`` begins with those of the result."""
    own, *others = counts
    turns = [each for other in others or [own] for each in (own, other)]
    latent, epsilon, rate = (state.slots["latent"], *map(state.settings.get, ("epsilon", "rate")))
    while state.step < steps:
        hits = mark(latent, allowed, counts=turns[state.step % len(turns)])
        gamma = {name: w.masked_fill(hits[name], 0) for name, w in weights.items()}
        loss, gradients = differentiate(losses(state.step), gamma, step=state.step)
        del gamma, hits
        for name, gradient in gradients.items():
            ascent = weights[name] * gradient.to(latent[name].dtype)  # -dL/dshut, straight-through
            climb(state, "latent", name, ascent, rate=rate, epsilon=epsilon)
        del gradients
        state.step += 1
        yield Progress(state.step, steps, loss, state)
    return ConceptMask.where(mark(latent, allowed, counts=own))


def _advance(
    losses: Losses,
    weights: dict[str, Tensor],
    state: SearchState,
    steps: int,
    goals: list[dict[str | None, int]],
    allowed: Hits,
) -> Generator[Progress, None, tuple[ConceptMask, ...]]:
    """Run :func:`shut_in_rounds` from ``state`` on."""
    total, square, shut = (state.slots[slot] for slot in ("total", "square", "round"))
    while state.step < steps * len(goals):
        gamma = {name: w.masked_fill(shut[name] > 0, 0) for name, w in weights.items()}
        loss, gradients = differentiate(losses(state.step), gamma, step=state.step)
        add_moments(gamma, gradients, total=total, square=square)
        del gamma, gradients
        state.step += 1
        if state.step % steps == 0:
            current = state.step // steps
            _close(state, current, goals[current - 1], allowed)
        yield Progress(state.step, steps * len(goals), loss, state)
    rounds = range(1, len(goals) + 1)
    return tuple(
        ConceptMask.where({name: (s > 0) & (s <= r) for name, s in shut.items()}) for r in rounds
    )


def _close(state: SearchState, current: int, goal: dict[str | None, int], allowed: Hits) -> None:
    """Shut what this round has scored highest, up to ``goal`` in all, and forget the scores."""
    total, square, shut = (state.slots[slot] for slot in ("total", "square", "round"))
    score = total
    if state.settings["by"] == "consistency":
        steps = state.settings["steps"]
        score = {n: consistency(t / steps, (square[n] / steps).sqrt_()) for n, t in total.items()}
    done = {name: int((s > 0).sum()) for name, s in shut.items()}
    done[None] = sum(done.values())
    counts = {key: count - done[key] for key, count in goal.items()}
    candidates = {n: allowed[n] & (s > 0) for n, s in score.items()}  # what is shut scores 0
    for name, hit in mark(score, candidates, counts=counts).items():
        shut[name][hit] = current
        total[name].zero_()
        square[name].zero_()


def _latent(
    mask: ConceptMask, weights: Weights, ranking: Mapping[str, Tensor] | None, *, per: str
) -> Scores:
    """Scale ``ranking`` to 0 at the border of ``mask`` and about -1 outside, inside >= 0."""
    hits = {name: hit.to(weights[name].device) for name, hit in mask.hits().items()}
    if ranking is None:
        return {n: wide(torch.ones_like(w)).masked_fill_(~hits[n], -1) for n, w in weights.items()}
    require_match(ranking, weights)
    latent = {name: wide(ranking[name].detach()).clone() for name in weights}
    groups = [list(weights)] if per == "model" else [[name] for name in weights]
    for group in groups:
        inside = [latent[name][hits[name]] for name in group if hits[name].any()]
        border = torch.cat(inside).min() if inside else max(latent[n].max() for n in group)
        count = sum(latent[name].numel() for name in group)
        spread = sum((latent[n] - border).abs().sum() for n in group) / count
        for name in group:
            latent[name].sub_(border).div_(spread.clamp(min=1e-30))
    for name, s in latent.items():
        outside = s.clamp(max=-1e-6)
        s.copy_(torch.where(hits[name], s, outside).clamp_(-_SPAN, _SPAN))
    return latent


def _counts(mask: ConceptMask, weights: Weights, *, per: str) -> dict[str | None, int]:
    """Count the neurons to keep, per parameter or (key None) in the whole model."""
    require_match(mask.shapes, weights)
    if per not in PER:
        raise SearchError(f"per is {per!r}, expected one of {PER}; choose one")
    if not mask:
        raise SearchError("the mask holds no neuron, expected at least one; select some first")
    if per == "model":
        return {None: len(mask)}
    return {name: len(index) for name, index in mask.indices.items()}


def _require_allowed(mask: ConceptMask, allowed: Hits) -> None:
    """Refuse a mask that reaches outside of what may be shut."""
    outside = sum(
        int((~allowed[name].reshape(-1)[index.to(allowed[name].device)]).sum())
        for name, index in mask.indices.items()
    )
    if outside:
        raise SearchError(
            f"{outside} neurons of the mask are excluded by guard or within, expected none; "
            "select it with the same guard and within"
        )
