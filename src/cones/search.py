"""Score every weight by how much shutting it should lower a loss (Sec. 3.1, Appendix A.2).

The loss is a function of the searched weights alone (Eq. 4), so nothing here knows of diffusion.
All engines sum ``theta * dL/dtheta`` over K gradients and differ in the point they are taken at:
on the self-adaptive path of Eq. 10 (Algorithm 1), on a gate ``xi`` (Algorithm A2), or at the
untouched weights, the limit of both for ``rate -> 0``. The model is never written to. Turning
scores into neurons is :mod:`cones.select`; how searches are resumed is :mod:`cones.state`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

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
from cones.state import Progress, Result, SearchState, begin


@dataclass(frozen=True)
class Moments:
    """First two moments of ``theta * dL/dtheta`` at the untouched weights.

    Attributes:
        mean: Mean over the gradients; positive where shutting should lower the loss (Eq. 8).
        rms: Root mean square over the gradients.
        steps: Number of gradients.
    """

    mean: Scores
    rms: Scores
    steps: int

    @property
    def total(self) -> Scores:
        """Sum over the gradients: ``M_p`` of Algorithms 1 and A2 in the limit ``rate -> 0``."""
        return {name: mean * self.steps for name, mean in self.mean.items()}

    @property
    def consistency(self) -> Scores:
        """Mean over RMS, in [-1, 1]: how steadily a gradient asks for the weight to be shut."""
        return {name: consistency(mean, self.rms[name]) for name, mean in self.mean.items()}


def score_sampled(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    state: SearchState | None = None,
) -> Generator[Progress, None, Scores]:
    """Sum ``theta * dL/dtheta`` along the self-adaptive samples (Algorithm 1, Eqs. 10-11).

    Takes exactly ``steps`` gradients, ``theta^1 .. theta^K``: the sum of the paper has K terms,
    although its loop ends one update early and Eq. A18 counts differently again.

    Args:
        losses: The loss of step ``k``, counted from 0.
        weights: The searched weights; read only.
        steps: K, the number of gradients.
        rate: rho; ``rate * theta * dL/dtheta`` has to stay well below 1.
        state: Where to go on; changed in place.

    Returns:
        A generator to be drained with :func:`cones.state.run`; its value is ``M_p`` per weight, in
        units of the loss.

    Raises:
        SearchError: The request is impossible, or (while running) a loss or gradient is not
            finite. The state is that of the last complete step in that case.
    """
    require_rate(rate)
    weights = searchable(weights)

    def start() -> dict[str, Scores]:
        copies = {name: wide(w).clone() for name, w in weights.items()}
        return {"theta": copies, "total": zeros(weights)}

    state = begin(
        state, weights, engine="sampled", steps=steps, settings={"rate": rate}, start=start
    )
    theta, total = state.slots["theta"], state.slots["total"]

    def point() -> Weights:
        return {name: t.to(weights[name].dtype) for name, t in theta.items()}

    def absorb(gradients: Weights) -> None:
        for name, gradient in gradients.items():
            product = theta[name] * gradient
            total[name] += product  # M_p of Algorithm 1
            theta[name].addcmul_(product, theta[name], value=-rate)  # Eqs. 10-11

    return _search(losses, state, steps=steps, point=point, absorb=absorb, finish=lambda: total)


def score_accelerated(
    losses: Losses,
    weights: Weights,
    *,
    steps: int,
    rate: float,
    optimiser: str = "adam",
    bounded: bool = False,
    epsilon: float = 1e-8,
    state: SearchState | None = None,
) -> Generator[Progress, None, Scores]:
    """Read ``M_p`` off K gradient steps on a gate ``xi * theta`` (Algorithm A2, Eqs. A15-A19).

    With ``"sgd"`` this is the paper to the letter: one gradient equals :func:`score_sampled`, and
    more differ from it by O(``rate``) (Eq. A17). With ``"adam"`` each gate moves by about ``rate``
    a step whatever its scale, so ``M_p`` lies in about [-K, K] and counts how *consistently*
    shutting helps; the paper's rates can only be understood so. No weight decay: it would add to
    every score alike. Besides ``weights``, "sgd" holds 3 copies of them and "adam" 5.

    Args:
        losses: The loss of step ``k``, counted from 0.
        weights: The searched weights; read only.
        steps: K, the number of gradients.
        rate: The learning rate of ``xi``.
        optimiser: ``"adam"`` or ``"sgd"``.
        bounded: Keep ``xi`` in [0, 1]; scaling up is not considered in the paper (Sec. 3.1).
        epsilon: Adam's; products ``theta * dL/dtheta`` well below it hardly count.
        state: Where to go on; changed in place.

    Returns:
        A generator to be drained with :func:`cones.state.run`; its value is ``M_p`` per weight.

    Raises:
        SearchError: As for :func:`score_sampled`.
    """
    require_rate(rate)
    if optimiser not in ("sgd", "adam"):
        raise SearchError(f"optimiser is {optimiser!r}, expected 'sgd' or 'adam'; choose one")
    weights = searchable(weights)
    slots = ("shrink",) if optimiser == "sgd" else ("shrink", "first", "second")
    settings = {"rate": rate, "optimiser": optimiser, "bounded": bounded, "epsilon": epsilon}
    state = begin(
        state,
        weights,
        engine="accelerated",
        steps=steps,
        settings=settings,
        start=lambda: {slot: zeros(weights) for slot in slots},
    )
    # Steps on xi = 1 are below float32 resolution at the paper's rate: shrink is 1 - xi.
    shrink = state.slots["shrink"]

    def point() -> Weights:  # gamma = xi * theta
        return {name: (w - shrink[name] * w).to(w.dtype) for name, w in weights.items()}

    def absorb(gradients: Weights) -> None:
        for name, gradient in gradients.items():
            ascent = weights[name] * gradient.to(shrink[name].dtype)  # dL/dxi, Eq. A13
            if optimiser == "sgd":
                shrink[name].add_(ascent, alpha=rate)  # Eq. A15
            else:
                climb(state, "shrink", name, ascent, rate=rate, epsilon=epsilon)
            if bounded:
                shrink[name].clamp_(0, 1)

    def finish() -> Scores:
        return {name: s / rate for name, s in shrink.items()}  # Eq. A19

    return _search(losses, state, steps=steps, point=point, absorb=absorb, finish=finish)


def score_moments(
    losses: Losses, weights: Weights, *, steps: int, state: SearchState | None = None
) -> Generator[Progress, None, Moments]:
    """Measure mean and RMS of ``theta * dL/dtheta`` at the untouched weights (Eq. 8).

    The sums are linear in the losses, so order and number of machines do not matter; the RMS
    depends on how many samples one loss averages over.

    Args:
        losses: The loss of step ``k``, counted from 0.
        weights: The searched weights; read only.
        steps: K, the number of gradients.
        state: Where to go on; changed in place.

    Returns:
        A generator to be drained with :func:`cones.state.run`; its value is :class:`Moments`.

    Raises:
        SearchError: As for :func:`score_sampled`.
    """
    weights = searchable(weights)
    state = begin(
        state,
        weights,
        engine="moments",
        steps=steps,
        settings={},
        start=lambda: {"total": zeros(weights), "square": zeros(weights)},
    )
    total, square = state.slots["total"], state.slots["square"]

    def finish() -> Moments:
        mean = {name: t / steps for name, t in total.items()}
        rms = {name: (s / steps).sqrt_() for name, s in square.items()}
        return Moments(mean, rms, steps)

    def absorb(gradients: Weights) -> None:
        add_moments(weights, gradients, total=total, square=square)

    return _search(losses, state, steps=steps, point=lambda: weights, absorb=absorb, finish=finish)


def _search(
    losses: Losses,
    state: SearchState,
    *,
    steps: int,
    point: Callable[[], Weights],
    absorb: Callable[[Weights], None],
    finish: Callable[[], Result],
) -> Generator[Progress, None, Result]:
    """Yield after every gradient; a refused one leaves ``state`` as it was."""
    while state.step < steps:
        loss, gradients = differentiate(losses(state.step), point(), step=state.step)
        absorb(gradients)
        state.step += 1
        del gradients
        yield Progress(state.step, steps, loss, state)
    return finish()
