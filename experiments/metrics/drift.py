"""Drift and gain: how far a method moves the model from itself, and what new views gain by it.

Drift is the mean squared change of the model's prediction, on photos of other individuals under
the plain noun and on photos of other things. Gain is the fall of the squared error, on new views
of the subject and on other individuals under the subject's prompt. Untouched and changed model
see the same draws.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cones.search.loss import draw, examples, predicted
from experiments.lab import Lab
from experiments.methods.learnt import Fitted, untouched
from experiments.subjects import Example

SETS = ("seen", "new", "others", "noun", "unrelated")
UNRELATED = 6  # other nouns
_PART = 32  # samples in the network at once
Said = list[tuple[Float[Tensor, "n 3 h w"], list[str]]]


def drift(lab: Lab, fitted: Fitted, example: Example) -> dict[str, float]:
    """Measure gains and drifts of one subject.

    Returns:
        ``gain_seen`` (photos of the search), ``gain_new``, ``gain_others``, ``drift_noun``,
        ``drift_unrelated``, and ``drift``, the mean of the last two.
    """
    before, targets = _predictions(lab, untouched(lab, [example]), example)
    after, _ = _predictions(lab, fitted, example)
    found = {}
    for name in SETS[:3]:
        errors = [(each[name] - targets[name]).square().mean() for each in (before, after)]
        found[f"gain_{name}"] = float(errors[0] - errors[1])
    for name in SETS[3:]:
        found[f"drift_{name}"] = float((after[name] - before[name]).square().mean())
    return found | {"drift": (found["drift_noun"] + found["drift_unrelated"]) / 2}


@torch.no_grad()
def _predictions(
    lab: Lab, fitted: Fitted, example: Example
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ask the model, as ``fitted`` makes it, for all sets; give what it says and should say."""
    said, wanted = {}, {}
    with fitted.applied(lab.pipeline):
        for name, (pixels, prompts) in zip(SETS, _sets(lab, example), strict=True):
            pairs = examples(lab.model, pixels, prompts)
            drawn = draw(lab.model, pairs, lab.effort.draws, purpose=f"metric {name}", seed=0)
            said[name] = torch.cat([predicted(lab.model, {}, p) for p in drawn.parts(_PART)])
            wanted[name] = drawn.target
    return said, wanted


def _sets(lab: Lab, example: Example) -> Said:
    size = lab.model.size
    others = example.others(size)
    pictures = [example.seen(size), example.kept(size), others]
    found = [(each, [example.phrase] * len(each)) for each in pictures]
    strangers = _strangers(lab, example)
    views = torch.cat([each.others(size)[:1] for each in strangers])
    plain = [each.plain for each in strangers]
    return [*found, (others, [example.plain] * len(others)), (views, plain)]


def _strangers(lab: Lab, example: Example) -> Sequence[Example]:
    """Choose one subject for each of some other nouns."""
    by_noun = {each.noun: each for each in lab.examples.values() if each.noun != example.noun}
    return [by_noun[noun] for noun in sorted(by_noun)[:UNRELATED]]
