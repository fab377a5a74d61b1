"""Merge what was learnt of several subjects apart, without photos and without training.

Custom Diffusion's "constraint optimization" (Kumari et al. 2023, Eqs. 4 and 5), the plain sum of
LoRAs, and their fusion as in Mix-of-Show (Gu et al. 2023, Sec. 4.2): the layers that answer every
subject's own inputs as its own LoRA would. The last is solved in closed form, not by L-BFGS.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cones.models.words import spoken
from cones.search.loss import draw, examples, predicted
from experiments.lab import Lab
from experiments.methods.adapters import hooked
from experiments.methods.fits import Task, fitted
from experiments.methods.learnt import Tuned
from experiments.methods.rivals import RATES, rival
from experiments.subjects import PLACES, Example, prompt

WAYS = {"custom-diffusion-merged": "custom-diffusion", "lora-sum": "lora", "lora-fused": "lora"}
RIDGE = 1e-6  # of the mean square of the captions' states: next to the original's none
FUSED_RIDGE = 1e-3
_PREFIX = "base_model.model."  # of peft's names
_DRAWS = 32


@dataclass(frozen=True)
class Merged:
    """One way to merge."""

    name: str  # in WAYS
    budget: int = 240  # gradients for each subject alone
    rate: float | None = None  # there; None is the method's own

    def fit(self, lab: Lab, task: Task) -> Tuned:
        """Learn every subject alone, or read that, and merge."""
        part = WAYS[self.name]
        rate = RATES[part] if self.rate is None else self.rate
        method = rival(part, budget=self.budget, rate=rate)
        alone = partial(fitted, lab, method, seed=task.seed, going_on=task.going_on)
        apart = [alone([each]) for each in task.examples]
        parts = [each for each in apart if isinstance(each, Tuned)]
        together = Tuned(
            dict(chain.from_iterable(each.words.items() for each in parts)),
            tuple(each.phrase for each in task.examples),
            sum(each.gradients for each in parts),
        )
        if self.name == "lora-sum":
            adapter, config = summed(parts)
            return replace(together, adapter=adapter, config=config)
        merge = constrained_all if part == "custom-diffusion" else fused
        return replace(together, weights=merge(lab, parts, task.examples))


def constrained_all(
    lab: Lab, parts: Sequence[Tuned], subjects: Sequence[Example]
) -> dict[str, Tensor]:
    """Merge every cross-attention projection by :func:`constrained`."""
    nouns = dict.fromkeys(each.plain for each in lab.examples.values())
    captions = [prompt([noun], place) for noun in nouns for place in PLACES]
    with spoken(lab.pipeline, dict(chain.from_iterable(each.words.items() for each in parts))):
        ordinary = _states(lab, captions)
        own = [
            torch.cat([_states(lab, [each.phrase]), _states(lab, [prompt([each.phrase])])])
            for each in subjects
        ]
    own = [rows.unique(dim=0) for rows in own]
    found = {}
    for name, weight in lab.model.weights("cross").items():
        values = [c @ each.weights[name].to(c).T for each, c in zip(parts, own, strict=True)]
        found[name] = constrained(weight, ordinary, torch.cat(own), torch.cat(values))
    return found


def constrained(
    weight: Float[Tensor, "out d"],
    captions: Float[Tensor, "n d"],
    words: Float[Tensor, "k d"],
    values: Float[Tensor, "k out"],
    *,
    ridge: float = RIDGE,
) -> Float[Tensor, "out d"]:
    """Solve ``min |(W - W0) C_reg^T|`` subject to ``W C^T = V^T``, in float64.

    W0 is ``weight``; captions, words and values are the rows of C_reg, C and V. What captions do
    not span may change without bound, and prompts with new words lie there; a ridge, in units of
    the mean square over captions, makes such changes cost too. Words that depend on each other are
    met by least squares.
    """
    w, reg, c, v = (each.double() for each in (weight, captions, words, values))
    gram = _ridged(reg.T @ reg, ridge)
    d = torch.linalg.solve(gram, c.T).T
    change = (v.T - w @ c.T) @ torch.linalg.pinv(d @ c.T, rtol=1e-9) @ d
    return (w + change).to(weight)


def summed(parts: Sequence[Tuned]) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Add LoRAs: give the tensors and the configuration of one of the sum of their ranks."""
    names = parts[0].adapter
    axis = {name: 0 if ".lora_A." in name else 1 for name in names}
    joined = {n: torch.cat([each.adapter[n] for each in parts], axis[n]) for n in names}
    ranks = [int(str(each.config["r"])) for each in parts]
    return joined, {**parts[0].config, "r": sum(ranks)}


def fused(lab: Lab, parts: Sequence[Tuned], subjects: Sequence[Example]) -> dict[str, Tensor]:
    """Solve ``min sum_i |W X_i - W_i X_i|``: X_i are a layer's inputs under the i-th LoRA."""
    shifts, grams = {}, {}
    for part, example in zip(parts, subjects, strict=True):
        inputs = _inputs(lab, part, example)
        for layer, gram in inputs.items():
            down, up = (
                part.adapter[f"{_PREFIX}{layer}.lora_{letter}.weight"].double() for letter in "AB"
            )
            shifts[layer] = shifts.get(layer, 0) + up @ down @ gram
            grams[layer] = grams.get(layer, 0) + gram
    found = {}
    for layer, gram in grams.items():
        weight = lab.model.module.get_parameter(f"{layer}.weight").detach()
        change = torch.linalg.solve(_ridged(gram, FUSED_RIDGE), shifts[layer].T).T
        found[f"{layer}.weight"] = (weight.double() + change).to(weight)
    return found


@torch.no_grad()
def _inputs(lab: Lab, part: Tuned, example: Example) -> dict[str, Float[Tensor, "d d"]]:
    """Sum the outer products of every adapted layer's inputs on the subject's noised photos."""
    layers = [n for n in part.adapter if n.endswith(".lora_A.weight")]
    names = [n.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for n in layers]
    pixels = example.seen(lab.model.size)
    grams: dict[str, Tensor] = {}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows = inputs[0].flatten(0, -2).double()
        grams[name] = grams.get(name, 0) + rows.T @ rows

    hooks = {name: partial(watch, name) for name in names}
    with part.applied(lab.pipeline), hooked(lab.model.module, hooks):
        pairs = examples(lab.model, pixels, example.phrase)
        drawn = draw(lab.model, pairs, _DRAWS, purpose="fusion", seed=0)
        predicted(lab.model, {}, drawn)
    return grams


def _ridged(gram: Float[Tensor, "d d"], ridge: float) -> Float[Tensor, "d d"]:
    return gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


@torch.no_grad()
def _states(lab: Lab, prompts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Give the text states of every token after the start, the end included."""
    states = lab.model.condition(prompts)["encoder_hidden_states"]
    counts = [len(lab.pipeline.tokenizer(said).input_ids) for said in prompts]
    rows = [s[1 : min(n, len(s))] for s, n in zip(states, counts, strict=True)]
    return torch.cat(rows).float()
