"""Every method behind one interface: ``METHODS[name](**settings)`` can ``fit`` subjects.

A new method is one class with ``name``, ``budget`` and ``fit``, and one line here. What it learns
is kept: :func:`learn` never learns the same thing twice.
"""

from collections.abc import Callable, Sequence
from functools import partial

from experiments.lab import Lab
from experiments.methods.cones import CONTROLS, PAPER, Cones, Control, Jointly
from experiments.methods.fits import Method, Task, fitted
from experiments.methods.learnt import Fitted, Shut, Tuned, untouched
from experiments.methods.merging import WAYS, Merged
from experiments.methods.rivals import TRAINED, rival
from experiments.subjects import Example

__all__ = [
    "METHODS",
    "Fitted",
    "Method",
    "Shut",
    "Task",
    "Tuned",
    "fitted",
    "learn",
    "untouched",
]

METHODS: dict[str, Callable[..., Method]] = {
    **{kind: partial(Control, kind) for kind in CONTROLS},
    "cones": Cones,
    "cones-paper": partial(Cones, paper=True, budget=PAPER.steps),
    "cones-collaborative": partial(Jointly, collaborative=True),
    "cones-joint": partial(Jointly, collaborative=False),
    **{name: partial(rival, name) for name in TRAINED},
    **{name: partial(Merged, name) for name in WAYS},
}


def learn(
    lab: Lab, name: str, examples: Sequence[Example], *, seed: int = 0, **settings: object
) -> Fitted:
    """Fit a method of METHODS with some settings, such as ``budget``, or read what it learnt."""
    return fitted(lab, METHODS[name](**settings), examples, seed=seed)
