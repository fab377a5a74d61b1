"""Drift and gain: how far a method moves the model from itself, and what new views gain by it.

Drift is the mean squared change of the model's prediction, on photos of other individuals under
the plain noun and on photos of other things. Gain is the fall of the squared error on new views
of the subject and on other individuals, from the untouched model under the plain noun to the
changed one under the subject's prompt, as in a certificate. Both see the same draws.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cones.search.loss import Examples, draw, predicted
from experiments.lab import Lab
from experiments.methods.learnt import Fitted, untouched
from experiments.subjects import Example

SETS = ("seen", "new", "others", "noun", "unrelated")
UNRELATED = 6  # other nouns
_PART = 32  # samples in the network at once
Said = dict[str, Tensor]  # by set


def drift(
    lab: Lab, fitted: Fitted, example: Example, *, purpose: str = "report"
) -> dict[str, float]:
    """Measure gains and drifts of one subject; choice and report share no draw.

    Returns:
        ``gain_seen`` (photos of the search), ``gain_new``, ``gain_others``, ``drift_noun``,
        ``drift_unrelated``, and ``drift``, the mean of the last two.
    """

    def untouched_model() -> tuple[Said, Said]:
        return _predictions(lab, untouched(lab, []), example, example.plain, purpose)

    at = ("drift", example.key, example.identifier, purpose)
    before, targets = lab.once(at, untouched_model)
    after, _ = _predictions(lab, fitted, example, example.phrase, purpose)
    found = {}
    for name in SETS[:3]:
        errors = [(each[name] - targets[name]).square().mean() for each in (before, after)]
        found[f"gain_{name}"] = float(errors[0] - errors[1])
    for name in SETS[3:]:
        found[f"drift_{name}"] = float((after[name] - before[name]).square().mean())
    return found | {"drift": (found["drift_noun"] + found["drift_unrelated"]) / 2}


@torch.no_grad()
def _predictions(
    lab: Lab, fitted: Fitted, example: Example, called: str, purpose: str
) -> tuple[Said, Said]:
    """Ask the model, as ``fitted`` makes it, for all sets; give what it says and should say."""
    model, said, wanted, sets = lab.model, {}, {}, _sets(lab, example, called)
    with fitted.applied(lab.pipeline), lab.computing():
        for name, (latents, prompts) in sets.items():
            pairs = Examples(latents, model.condition(prompts))
            drawn = draw(model, pairs, lab.effort.draws, purpose=f"{purpose} of {name}", seed=0)
            said[name] = torch.cat([predicted(model, {}, p) for p in drawn.parts(_PART)])
            wanted[name] = drawn.target
    return said, wanted


def _sets(lab: Lab, example: Example, called: str) -> dict[str, tuple[Tensor, list[str]]]:
    """Give the latents and prompts of every set; photos are encoded once."""
    size, strangers = lab.model.size, _strangers(lab, example)
    read = {
        "seen": lambda: example.seen(size),
        "new": lambda: example.part("kept", size),
        "others": lambda: example.part("other", size),
        "unrelated": lambda: torch.cat([each.part("other", size)[:1] for each in strangers]),
    }
    latents = {
        name: lab.once(("latents", example.key, name), lambda p=pixels: lab.model.encode(p()))
        for name, pixels in read.items()
    }
    latents["noun"] = latents["others"]
    found = {name: (latents[name], [called] * len(latents[name])) for name in SETS[:3]}
    found["noun"] = (latents["noun"], [example.plain] * len(latents["noun"]))
    found["unrelated"] = (latents["unrelated"], [each.plain for each in strangers])
    return found


def _strangers(lab: Lab, example: Example) -> Sequence[Example]:
    """Choose one subject for each of some other nouns."""
    by_noun = {each.noun: each for each in lab.examples.values() if each.noun != example.noun}
    return [by_noun[noun] for noun in sorted(by_noun)[:UNRELATED]]
