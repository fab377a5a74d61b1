"""How well must the values at the neurons be known (Fig. 3)? From shut to float32.

A value is a factor of its weight. All start at 0, which is shut, and are trained by the same loss,
draws and rate; the best by draws for choices are taken, and the page says how late they came. Few
bits round the factor and pass the gradient straight through.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from cones.mask import Mask
from cones.models.words import spoken
from cones.search.loss import ImplantingLoss, Weights, differentiate, examples
from experiments.lab import Lab
from experiments.methods import METHODS, Method, Task, Tuned, fitted, learn
from experiments.studies import shared
from experiments.studies.shared import DEFAULT
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

SHUT, CHECKS = "shut", 10
BITS = {SHUT: 0, "binary": 1, "quaternary": 2, "float16": 16, "float32": 32}
Rounded = Callable[[Tensor, Tensor], Tensor]  # from factors and weights to what is written
ROUNDED: dict[str, Rounded] = {
    "binary": lambda factor, theta: (factor > 0.5) * theta,
    "quaternary": lambda factor, theta: factor.round().clamp(-1, 2) * theta,
    "float16": lambda factor, theta: (factor * theta).half().float(),
    "float32": lambda factor, theta: factor * theta,
}


@dataclass(frozen=True)
class Optimised:
    """Train values at the neurons that Cones found."""

    precision: str  # in ROUNDED
    budget: int = 240
    rate: float = 0.01  # of Adam, of the factors
    name: str = field(default="values", init=False)

    def fit(self, lab: Lab, task: Task) -> Tuned:
        """Train from shut on, and take the best by the draws for choices."""
        (example,), model, seed = task.examples, lab.model, task.seed
        (concept,) = shared.shut(learn(lab, "cones", task.examples, seed=seed)).concepts
        words = {word.identifier: word.embeddings for word in concept.words}
        with spoken(lab.pipeline, words):
            pairs = examples(model, example.seen(model.size), example.phrase, flip=True)
            prior = examples(model, lab.prior(example, seed=seed), example.plain)
        loss, budget = ImplantingLoss(model, pairs, prior), lab.effort.budget(self.budget)
        weights = {name: model.weights()[name] for name in concept.mask}
        factors = {n: at(concept.mask, n, w).mul(0) for n, w in weights.items()}
        adam = torch.optim.Adam(list(factors.values()), lr=self.rate)
        best, losses = weights, []
        for step in range(budget + 1):
            now = written(weights, concept.mask, factors, ROUNDED[self.precision])
            with lab.computing():
                if step % max(1, budget // CHECKS) == 0:
                    losses.append(checked(loss, now, seed, lab.effort.draws))
                    best = now if losses[-1] == min(losses) else best
                drawn = loss.at(step, purpose="search-values", seed=seed)
                found = differentiate(drawn, now, prior_weight=DEFAULT.prior_weight, step=step)
            for name, each in factors.items():
                each.grad = at(concept.mask, name, found.of[name] * weights[name])
            adam.step()
            lab.progress("values", step, budget, str(found))
        return Tuned(words, (example.phrase,), budget, best, losses=tuple(losses))


def at(mask: Mask, name: str, tensor: Tensor) -> Tensor:
    """Copy the entries at the neurons of a parameter."""
    return tensor.reshape(-1)[mask.indices[name].to(tensor.device)].float()


def written(weights: Weights, mask: Mask, factors: Weights, rounded: Rounded) -> dict[str, Tensor]:
    """Write values at the neurons of copies of the weights."""
    found = {name: weight.clone() for name, weight in weights.items()}
    for name, weight in found.items():
        values = rounded(factors[name], at(mask, name, weight))
        weight.view(-1)[mask.indices[name].to(weight.device)] = values.to(weight)
    return found


@torch.no_grad()
def checked(loss: ImplantingLoss, weights: Weights, seed: int, draws: int) -> float:
    """Measure the loss on draws that training does not see, the same for all."""
    rounds, total = max(1, draws // loss.batch), 0.0
    for step in range(rounds):
        for part in loss.at(step, purpose="choice", seed=seed)(weights):
            subject, prior = part()
            total += float(subject + DEFAULT.prior_weight * prior) / rounds
    return total


def cases(options: Options) -> list[Case]:
    """Take every precision with every subject."""
    chosen = [SHUT, "quaternary"] if options.quick else list(BITS)
    return shared.variants(options.subjects, chosen)


def measure(case: Case, lab: Lab) -> list[Row]:
    """Train to the plateau, and judge; say the losses on the way."""
    chosen, precision, seed = lab.chosen(case["subjects"]), case["method"], case["seed"]
    how: Method = METHODS["cones"]() if precision == SHUT else Optimised(precision)
    row = shared.measured(lab, how, chosen, seed=seed) | {"bits": BITS[precision]}
    found = fitted(lab, how, chosen, seed=seed)
    if isinstance(found, Tuned):
        losses = list(found.losses)
        row |= {"start": losses[0], "best": min(losses), "end": losses[-1]}
        row["best_at"] = losses.index(min(losses)) / max(1, len(losses) - 1)
    return [row]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average, and compare with shutting subject by subject."""
    own, claims = table[table["method"] == SHUT], []
    figures = (*shared.FIGURES, "bits", "start", "best", "end", "best_at")
    rows = rows_of(table, "method", figures)
    for row in rows:
        row["lead"] = shared.lead(table[table["method"] == row["method"]], own)
    if trained := [row for row in rows if row["lead"]["n"] and row["method"] != SHUT]:
        best = max(trained, key=lambda row: row["success"])
        here = f"{best['method']} does best: {best['lead']['mean']:+.0%} of pictures over shut."
        paper = "Values in float32, float16 or two bits and plain shutting do alike."
        low = best["lead"]["low"]
        claims = [shared.claim(paper, here, None if low is None else low <= 0)]
    return {"subjects": shared.distinct(table), "rows": rows, "claims": claims}


STUDY = Study("values", "How well must the values be known?", cases, measure, results)
