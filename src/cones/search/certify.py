"""Certify a concept by what its search never saw.

A photo that was kept out, other individuals of the noun, prompts that no search looks at, and
draws of noise of their own. Untouched and shut model see the same draws, so their differences are
free of sampling noise. A mask that does not help its own subject, or helps others as much, is
refused: its verdict is ``"not gained"``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.models.protocol import Model
from cones.search.loss import Against, Draw, Examples, Weights, draw, errors
from cones.search.resume import Progress, silent

GAINED, FAILED, UNAVAILABLE = "gained", "not gained", "unavailable"


def t_interval(values: Sequence[float] | Float[Tensor, " n"]) -> dict[str, float | int]:
    """Give the mean with its 95 % t interval: ``mean``, ``low``, ``high`` and ``n``.

    Raises:
        SearchError: There are fewer than two values.
    """
    found = torch.as_tensor(values, dtype=torch.float64)
    n = len(found)
    if n < 2:
        raise SearchError(f"found {n} values; expected two or more; measure more")
    mean = float(found.mean())
    half = float(stdtrit(n - 1, 0.975)) * float(found.std()) / n**0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a certificate looks at."""

    seen: Examples  # photos of the search
    kept: Examples | None  # the photo that was kept out, if there are enough
    others: Examples  # other individuals of the noun, called by the subject's prompt
    noun: Examples  # the same, called by the plain noun
    unrelated: Examples

    @property
    def photos(self) -> Examples:
        """The photo that was kept out, or else those of the search."""
        return self.seen if self.kept is None else self.kept


@dataclass(frozen=True)
class Ruler:
    """Measures a network with other weights on paired draws, all of one seed."""

    model: Model
    draws: int  # samples behind every figure
    seed: int
    micro_batch: int | None = None  # samples in the network at once; None: 32

    def gain(self, pairs: Examples, shut: Weights, *, purpose: str) -> Float[Tensor, " n"]:
        """Measure how much the squared error falls, draw by draw."""
        drawn = self._draw(pairs, purpose, "data")
        return self._errors({}, drawn) - self._errors(shut, drawn)

    def drift(self, pairs: Examples, shut: Weights, *, purpose: str) -> Float[Tensor, " n"]:
        """Measure the squared change of what the network predicts, draw by draw."""
        return self._errors(shut, self._draw(pairs, purpose, "untouched"))

    def _draw(self, pairs: Examples, purpose: str, against: Against) -> Draw:
        options = {"against": against, "micro_batch": self.micro_batch or 32}
        return draw(self.model, pairs, self.draws, purpose=purpose, seed=self.seed, **options)

    @torch.no_grad()
    def _errors(self, weights: Weights, drawn: Draw) -> Float[Tensor, " n"]:
        parts = drawn.parts(self.micro_batch or 32)
        return torch.cat([errors(self.model, weights, part).cpu() for part in parts])


def shut_in(weights: Weights, mask: Mask) -> dict[str, Tensor]:
    """Give a copy of the weights with the neurons shut (``M * theta``)."""
    hits = mask.hits()
    return {n: w.masked_fill(hits[n].to(w.device), 0) for n, w in weights.items()}


def certify(
    ruler: Ruler, weights: Weights, mask: Mask, evidence: Evidence, *, progress: Progress = silent
) -> dict[str, object]:
    """Measure what shutting does, on draws that neither search nor choice has seen.

    Gains are falls of the mean squared error and drifts mean squared changes of the prediction,
    both over draws of noise: ``n`` counts draws, not photos.

    Returns:
        ``verdict``: ``"gained"`` if the intervals of ``subject`` and of its ``lead`` over
        ``others`` lie above 0, else ``"not gained"``; ``"unavailable"`` if they do but no photo
        was kept out. ``photos`` says which were measured. ``subject``, ``others``, ``lead``,
        ``random`` (as many neurons of every layer), ``drift_noun`` and ``drift_unrelated`` are
        each a :func:`t_interval`.
    """
    random = mask.random_like(torch.Generator().manual_seed(ruler.seed))
    shut, control = shut_in(weights, mask), shut_in(weights, random)
    plan = {
        "subject": (ruler.gain, evidence.photos, shut),
        "others": (ruler.gain, evidence.others, shut),
        "random": (ruler.gain, evidence.photos, control),
        "drift_noun": (ruler.drift, evidence.noun, shut),
        "drift_unrelated": (ruler.drift, evidence.unrelated, shut),
    }
    measured = {}
    for name, (measure, pairs, changed) in plan.items():
        measured[name] = measure(pairs, changed, purpose="report")
        progress("certificate", len(measured), len(plan), name)
    measured["lead"] = measured["subject"] - measured["others"]
    found = {name: t_interval(each) for name, each in measured.items()}
    passed = min(found["subject"]["low"], found["lead"]["low"]) > 0
    seen = evidence.kept is None
    verdict = (UNAVAILABLE if seen else GAINED) if passed else FAILED
    return {"verdict": verdict, "photos": "of the search" if seen else "kept out", **found}


def choose(
    ruler: Ruler,
    weights: Weights,
    masks: Sequence[Mask],
    evidence: Sequence[Evidence],
    *,
    prior_weight: float,
) -> tuple[int, list[dict[str, float]]]:
    """Choose among masks, sparse to dense, by a line search of L_con on draws of its own.

    Of several subjects the sum counts.

    Returns:
        The sparsest that lags the best by at most one standard error over paired draws; and for
        each mask its density, gain, drift and ``value``, the gain less lambda times the drift.
    """
    rows, values = [], []
    for mask in masks:
        shut = shut_in(weights, mask)
        gain = sum(ruler.gain(each.photos, shut, purpose="choice") for each in evidence)
        drift = sum(ruler.drift(each.noun, shut, purpose="choice") for each in evidence)
        values.append(gain - prior_weight * drift)
        means = {"gain": gain, "drift": drift, "value": values[-1]}
        rows.append({"density": mask.density} | {n: float(v.mean()) for n, v in means.items()})
    best = max(values, key=lambda each: float(each.mean()))
    behind = [best - each for each in values]
    near = [float(d.mean()) <= float(d.std()) / len(d) ** 0.5 for d in behind]
    return near.index(True), rows
