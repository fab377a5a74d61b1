"""The rules that turn gradients into nested masks; ``cones bench rules`` compares them.

A rule is a function from :class:`Question` to nested masks, sparse to dense. The paper's own is
``sum``; findings on why it fails, and what the others do about it, are in docs/search.md.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cones.mask import ConceptMask
from cones.refine import refine, shut_in_rounds
from cones.search import score_accelerated, score_moments, score_sampled
from cones.select import nested, select
from cones.state import SearchState

Drain = Callable[[str, Callable[[SearchState | None], Generator]], tuple[Any, SearchState | None]]


@dataclass(frozen=True)
class Question:
    """What a rule is given.

    Attributes:
        losses: The loss of step ``k`` (see :mod:`cones.search`).
        weights: The searched weights.
        densities: Of the levels wanted, increasing.
        density: Where the mask is meant to be used, one of ``densities``.
        rivals: Densities that the line search may choose instead, so worth refining for too.
        steps: Gradients of the scoring search.
        refine_steps: Gradients of the refinement, for the rules of :data:`REFINING`.
        rate: Learning rate of the gate (rho).
        guard: Shut only weights below this many standard deviations, or ``None``.
        within: Search only these neurons, or ``None``.
        drain: Runs a named search to its end and gives its value and last state.
    """

    losses: Callable
    weights: Mapping[str, Tensor]
    densities: tuple[float, ...]
    density: float
    rivals: tuple[float, ...]
    steps: int
    refine_steps: int
    rate: float
    guard: float | None
    within: ConceptMask | None
    drain: Drain

    def levels(self, score: Mapping[str, Tensor], **options: Any) -> tuple[ConceptMask, ...]:
        """Cut a score at all densities."""
        return nested(score, self.weights, self.densities, within=self.within, **options)


def _sum(question: Question) -> Mapping[str, Tensor]:
    score, _ = question.drain(
        "sum",
        lambda state: score_sampled(
            question.losses, question.weights, steps=question.steps, rate=6e-5, state=state
        ),
    )
    return score


def by_sum(question: Question) -> tuple[ConceptMask, ...]:
    """Rank by ``M_p`` over all layers together: Algorithm 1, literally."""
    return question.levels(_sum(question))


def by_site_sum(question: Question) -> tuple[ConceptMask, ...]:
    """Rank by ``M_p``, the same share in every site."""
    return question.levels(_sum(question), per="site")


def by_consistency(question: Question) -> tuple[ConceptMask, ...]:
    """Rank by mean over RMS of ``theta * dL/dtheta`` at the untouched weights, guarded."""
    moments, _ = question.drain(
        "consistency",
        lambda state: score_moments(
            question.losses, question.weights, steps=question.steps, state=state
        ),
    )
    return question.levels(moments.consistency, guard=question.guard)


def _adam(question: Question) -> Mapping[str, Tensor]:
    score, _ = question.drain(
        "adam",
        lambda state: score_accelerated(
            question.losses,
            question.weights,
            steps=question.steps,
            rate=question.rate,
            bounded=True,
            state=state,
        ),
    )
    return score


def by_adam(question: Question) -> tuple[ConceptMask, ...]:
    """Rank by Algorithm A2 under Adam."""
    return question.levels(_adam(question), guard=question.guard)


def by_rounds(question: Question) -> tuple[ConceptMask, ...]:
    """Shut an eighth of the density at a time and measure the gradients anew."""
    rounds = 8
    masks, _ = question.drain(
        "rounds",
        lambda state: shut_in_rounds(
            question.losses,
            question.weights,
            density=question.density,
            rounds=rounds,
            steps=max(1, (question.steps + question.refine_steps) // rounds),
            guard=question.guard,
            within=question.within,
            state=state,
        ),
    )
    return masks


def by_refine(question: Question) -> tuple[ConceptMask, ...]:
    """Start from ``adam``, then exchange neurons with the mask in place (straight-through).

    All levels are cut from the refined scores; the one at ``density`` is the refined mask. Where
    the density is still open, every second gradient is measured at a denser level: refined for
    one density alone, the scores make poor masks at higher ones.
    """
    score = _adam(question)
    options = {"guard": question.guard, "within": question.within}
    start = select(score, question.weights, density=question.density, **options)
    mask, state = question.drain(
        "refine",
        lambda state: refine(
            question.losses,
            question.weights,
            start,
            steps=question.refine_steps,
            rate=REFINE_RATE,
            ranking=score,
            densities=question.rivals,
            state=state,
            **options,
        ),
    )
    latent = state.slots["latent"]
    least = min(float(s.min()) for s in latent.values())
    lifted = {name: s - least + 1e-3 for name, s in latent.items()}
    levels = question.levels(lifted, guard=question.guard)
    return tuple(
        mask if density == question.density else level
        for density, level in zip(question.densities, levels, strict=True)
    )


REFINE_RATE = 0.02

RULES: dict[str, Callable[[Question], tuple[ConceptMask, ...]]] = {
    "sum": by_sum,
    "site-sum": by_site_sum,
    "consistency": by_consistency,
    "adam": by_adam,
    "rounds": by_rounds,
    "refine": by_refine,
}
REFINING = ("rounds", "refine")  # these also use up ``refine_steps``
