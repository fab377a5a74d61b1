"""Merge separately trained Custom Diffusion concepts in closed form, without pictures.

Source: Kumari et al., "Multi-Concept Customization" (2023), Sec. 3.2, Eqs. 4 and 5: in every layer
the weights change as little as possible on the states of ordinary captions, under the constraint
that each concept's own words are mapped to what its own weights map them to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cones.backbones import backbone_for
from cones.backbones.spoken import spoken
from cones.errors import SearchError
from cones.find import Notify
from cones.methods.custom_diffusion import CrossAttention, CustomDiffusion
from cones.methods.loop import Task

THINGS = (
    "cat", "dog", "man", "woman", "car", "house", "tree", "chair",
    "table", "cup", "flower", "book", "hat", "shoe", "boat", "bird",
)  # fmt: skip
PLACES = (
    "",
    " on a beach",
    " in the snow",
    " in a city",
    " on a road",
    " in a garden",
    " at night",
    " in a room",
    " by a lake",
    " on a wooden floor",
    " in a forest",
    " in front of a mountain",
    " in the style of a painting",
)
CAPTIONS = tuple(f"a photo of a {thing}{place}" for thing, place in product(THINGS, PLACES))
RIDGE = 1e-6  # of the mean square of the captions' states: next to the original's none


def constrained(
    weight: Float[Tensor, "out d"],
    captions: Float[Tensor, "n d"],
    words: Float[Tensor, "k d"],
    values: Float[Tensor, "k out"],
    *,
    ridge: float = RIDGE,
) -> Float[Tensor, "out d"]:
    """Solve ``min |(W - W0) C_reg^T|`` subject to ``W C^T = V^T`` (Eq. 5), in float64.

    What captions do not span may change without bound. In a small text encoder that is most of
    the space, and prompts with the new words lie there; a ridge makes such changes cost too.

    Args:
        weight: ``W0``.
        captions: Rows of ``C_reg``.
        words: Rows of ``C``, linearly independent.
        values: Rows of ``V``.
        ridge: Cost of a change in any direction, in units of the mean square over captions.
    """
    w, reg, c, v = (each.double() for each in (weight, captions, words, values))
    gram = reg.T @ reg
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    d = torch.linalg.solve(gram, c.T).T
    change = (v.T - w @ c.T) @ torch.linalg.solve(d @ c.T, d)  # Eq. 5
    return (w + change).to(weight)


def merged(
    pipeline: Any,
    learnt: Sequence[CrossAttention],
    names: Sequence[str],
    captions: Sequence[str],
    *,
    ridge: float = RIDGE,
) -> CrossAttention:
    """Merge concepts that were trained apart.

    Args:
        pipeline: The model they were trained on.
        learnt: One concept each.
        names: What each is called, such as ``V* cat``, in the same order.
        captions: Ordinary captions; 200 in the original.
        ridge: See :func:`constrained`.

    Raises:
        SearchError: Names and concepts do not pair up, or two share a word.
    """
    words = [word for each in learnt for word in each.identifiers]
    if len(learnt) != len(names) or len(set(words)) < len(words):
        raise SearchError(
            f"found {len(learnt)} concepts called {', '.join(names)} with the words "
            f"{', '.join(words)}; expected a name and words of its own for each; train them apart"
        )
    backbone = backbone_for(pipeline)
    for word in words:
        backbone.register(word)
    together = {word: rows for each in learnt for word, rows in each.words.items()}
    with spoken(pipeline, together):
        ordinary = _states(pipeline, captions, skip=0)
        own = [_states(pipeline, [name], skip=0) for name in names]
        own = [
            torch.cat([first, _states(pipeline, [f"a photo of {name}"], skip=3)]).unique(dim=0)
            for first, name in zip(own, names, strict=True)
        ]
    found = {}
    for name, weight in backbone.weights("cross").items():
        values = [c @ each.weights[name].to(c).T for each, c in zip(learnt, own, strict=True)]
        found[name] = constrained(weight, ordinary, torch.cat(own), torch.cat(values), ridge=ridge)
    return CrossAttention(tuple(words), found, together)


@torch.no_grad()
def _states(pipeline: Any, prompts: Sequence[str], *, skip: int) -> Float[Tensor, "n d"]:
    """Give the text states of every token after the start and ``skip`` words, the end included."""
    backbone = backbone_for(pipeline)
    states = backbone.condition(prompts)["encoder_hidden_states"]
    rows = []
    for prompt, state in zip(prompts, states, strict=True):
        count = len(pipeline.tokenizer(prompt).input_ids)
        rows.append(state[1 + skip : min(count, len(state))])
    return torch.cat(rows).float()


@dataclass(frozen=True)
class Merged(CustomDiffusion):
    """Custom Diffusion of every subject apart, merged ("constraint optimization").

    Attributes:
        ridge: See :func:`constrained`; the rest is :class:`CustomDiffusion`'s.
    """

    ridge: float = RIDGE
    joins: ClassVar[str | None] = "custom-diffusion"

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        parts: Sequence[CrossAttention] | None = None,
        on_progress: Notify | None = None,
    ) -> CrossAttention:
        """Learn every subject, or take ``parts``, what was learnt of each before; then merge."""
        apart = parts or [
            CustomDiffusion.fit(self, pipeline, [task], seed=seed, on_progress=on_progress)
            for task in tasks
        ]
        if len(apart) == 1:
            return apart[0]
        names = [f"{task.subject.identifier} {task.subject.noun}" for task in tasks]
        return merged(pipeline, apart, names, CAPTIONS, ridge=self.ridge)
