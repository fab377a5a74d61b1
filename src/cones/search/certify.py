"""Certify a concept by what its search never saw.

A photo that was kept out, other individuals of the noun, prompts that no search looks at, and
draws of noise of their own. Untouched and shut model see the same draws, so their differences are
free of sampling noise. What counts is the lead over others: learning four photos by heart makes a
fifth one as unlikely as anybody else's. A mask without a lead is refused: ``"not gained"``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from cones.errors import SearchError
from cones.mask import Mask
from cones.models.base import Model
from cones.search.loss import Against, Draw, Examples, Weights, aimed, draw, errors
from cones.search.resume import Progress, silent
from cones.search.settings import Settings
from cones.search.spread import spread

GAINED, FAILED, UNAVAILABLE = "gained", "not gained", "unavailable"
AT_ONCE = 32  # samples in the network, unless the settings say
LOST = 1 / 3  # of the lead, at most, may be the subject's own loss
FEW = 4  # part of the draws that is enough for what no verdict hangs on


def t_interval(values: Sequence[float] | Float[Tensor, " n"]) -> dict[str, float | int]:
    """Give the mean with its 95 % t interval: ``mean``, ``low``, ``high`` and ``n``."""
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

    subject: Examples  # the photo that was kept out of the search, or else those of the search
    kept: bool  # whether one was
    plain: Examples  # the same photos, called by the plain noun
    others: Examples  # other individuals of the noun, called by the subject's prompt
    noun: Examples  # the same, called by the plain noun
    unrelated: Examples


@torch.no_grad()
def paired(
    model: Model,
    settings: Settings,
    pairs: Examples,
    changed: Sequence[Weights],
    *,
    purpose: str,
    against: Against = "data",
    draws: int | None = None,
) -> list[Float[Tensor, " n"]]:
    """Measure the squared error with each of some weights on the same draws, draw by draw."""

    def measure(part: Draw) -> tuple[Tensor, ...]:
        part = aimed(model, part, against)
        return tuple(errors(model, each, part).cpu() for each in changed)

    drawn = draw(model, pairs, draws or settings.draws, purpose=purpose, seed=settings.seed)
    parts = drawn.parts(settings.micro_batch or AT_ONCE)
    found = [*spread(partial(measure, part) for part in parts)]
    return [torch.cat(each).cpu() for each in zip(*found, strict=True)]


def shut_in(weights: Weights, mask: Mask) -> dict[str, Tensor]:
    """Give a copy of the weights with the neurons shut (``M * theta``)."""
    hits = {n: hit.to(weights[n].device) for n, hit in mask.hits().items()}
    return {n: weights[n].masked_fill(hit, 0) for n, hit in hits.items()}


def certify(
    model: Model,
    settings: Settings,
    mask: Mask,
    evidence: Evidence,
    *,
    progress: Progress = silent,
) -> dict[str, object]:
    """Measure what a concept does, on draws that neither search nor choice has seen.

    Gains are falls of the mean squared error, from the untouched model under the plain noun to
    the shut one under the identifier; drifts are mean squared changes of the prediction. Both are
    over draws of noise: ``n`` counts draws, not photos.

    Returns:
        ``verdict``: ``"gained"`` if the interval of ``lead``, the gain of ``subject`` less that
        of ``others``, lies above 0, and the subject itself loses less than a third of it, else
        ``"not gained"``; ``"unavailable"`` if it does but no photo was kept out. ``photos`` says
        which were measured. The rest are :func:`t_interval`: ``word`` is what the identifier
        gains with nothing shut, ``random`` with as many other neurons of every layer shut. What
        the verdict does not read has a quarter of the draws.
    """
    measured = _measured(model, settings, mask, evidence, progress)
    found = {name: t_interval(each) for name, each in measured.items()}
    lost = -found["subject"]["mean"] / max(found["lead"]["mean"], 1e-12)
    passed = found["lead"]["low"] > 0 and lost < LOST
    verdict = (GAINED if evidence.kept else UNAVAILABLE) if passed else FAILED
    photos = "kept out" if evidence.kept else "of the search"
    return {"verdict": verdict, "photos": photos, **found}


def _measured(
    model: Model, settings: Settings, mask: Mask, evidence: Evidence, progress: Progress
) -> dict[str, Tensor]:
    """Give every figure of a certificate, draw by draw."""
    random = mask.random_like(torch.Generator().manual_seed(settings.seed))
    shut, few = shut_in(model.weights(), mask), max(2, settings.draws // FEW)

    def error(pairs: Examples, changed: Weights, draws: int, against: Against = "data") -> Tensor:
        how = {"purpose": "report", "against": against, "draws": draws}
        return paired(model, settings, pairs, [changed], **how)[0]

    @cache
    def bare(what: str, draws: int) -> Tensor:
        return error(evidence.noun if what == "others" else evidence.plain, {}, draws)

    def gain(what: str, changed: Weights, draws: int = settings.draws) -> Tensor:
        return bare(what, draws) - error(getattr(evidence, what), changed, draws)

    parts = {
        "subject": partial(gain, "subject", shut),
        "others": partial(gain, "others", shut),
        "word": partial(gain, "subject", {}, few),
        "random": partial(gain, "subject", shut_in(model.weights(), random), few),
        "drift_noun": partial(error, evidence.noun, shut, few, "untouched"),
        "drift_unrelated": partial(error, evidence.unrelated, shut, few, "untouched"),
    }
    measured: dict[str, Tensor] = {}
    for name, measure in parts.items():
        measured[name] = measure()
        progress("certificate", len(measured), len(parts), name)
    return measured | {"lead": measured["subject"] - measured["others"]}


def choose(
    model: Model,
    settings: Settings,
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
    changed = [shut_in(model.weights(), mask) for mask in masks]
    measure = partial(paired, model, settings, purpose="choice")
    gain, drift = torch.zeros(()), torch.zeros(())
    for each in evidence:
        before, *after = measure(each.subject, [{}, *changed])
        gain = gain + before - torch.stack(after)
        moved = measure(each.noun, changed, against="untouched")
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
