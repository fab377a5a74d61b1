"""Certify a concept by what its search never saw.

A photo that was kept out, other individuals of the noun, prompts that no search looks at, and
draws of noise of their own. Untouched and shut model see the same draws, so their differences are
free of sampling noise. A mask that does not help its own subject, or helps others as much, is
refused: its verdict is ``"not gained"``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.models.protocol import Model
from cones.search.loss import Against, Examples, Weights, draw, errors
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

    @torch.no_grad()
    def errors(
        self,
        pairs: Examples,
        changed: Sequence[Weights],
        *,
        purpose: str,
        against: Against = "data",
    ) -> list[Float[Tensor, " n"]]:
        """Measure the squared error with each of some weights, draw by draw."""
        size = self.micro_batch or 32
        options = {"purpose": purpose, "seed": self.seed, "against": against, "micro_batch": size}
        parts = list(draw(self.model, pairs, self.draws, **options).parts(size))
        found = [[errors(self.model, each, part).cpu() for part in parts] for each in changed]
        return [torch.cat(each) for each in found]


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
    errors, told = partial(ruler.errors, purpose="report"), partial(progress, "certificate")
    before, after, chance = errors(evidence.photos, [{}, shut, control])
    told(1, 4, "subject")
    bare, others = errors(evidence.others, [{}, shut])
    told(2, 4, "others")
    (noun,) = errors(evidence.noun, [shut], against="untouched")
    told(3, 4, "noun")
    (unrelated,) = errors(evidence.unrelated, [shut], against="untouched")
    told(4, 4, "unrelated")
    measured = {"subject": before - after, "others": bare - others, "random": before - chance}
    measured["lead"] = measured["subject"] - measured["others"]
    measured |= {"drift_noun": noun, "drift_unrelated": unrelated}
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
    changed = [shut_in(weights, mask) for mask in masks]
    gain, drift = torch.zeros(()), torch.zeros(())
    for each in evidence:
        before, *after = ruler.errors(each.photos, [{}, *changed], purpose="choice")
        gain = gain + before - torch.stack(after)
        moved = ruler.errors(each.noun, changed, purpose="choice", against="untouched")
        drift = drift + torch.stack(moved)
    value = gain - prior_weight * drift
    means = {"gain": gain.mean(1), "drift": drift.mean(1), "value": value.mean(1)}
    rows = [
        {"density": mask.density} | {name: float(mean[k]) for name, mean in means.items()}
        for k, mask in enumerate(masks)
    ]
    behind = value[means["value"].argmax()] - value
    near = behind.mean(1) <= behind.std(1) / behind.shape[1] ** 0.5
    return near.tolist().index(True), rows
