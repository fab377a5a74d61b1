"""A linear classifier on a judge's features, and the tally of what it says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PENALTY = 1e-3  # on the squared weights, per picture


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier on standardised features.

    Attributes:
        names: Of the classes.
        mean: Of each feature over the pictures it was fitted on.
        spread: Standard deviation of each feature there.
        weights: One row a class; the last column is the constant.
    """

    names: tuple[str, ...]
    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    weights: Float[Tensor, "classes d_and_1"]

    @classmethod
    def fit(cls, features: Float[Tensor, "n d"], labels: Sequence[Sequence[str]]) -> "Probe":
        """Fit by maximum likelihood with a quadratic penalty (logistic regression).

        Args:
            features: One row a picture.
            labels: The classes of each picture; several share its probability evenly.
        """
        names = tuple(sorted({name for several in labels for name in several}))
        target = torch.zeros(len(labels), len(names))
        for row, several in zip(target, labels, strict=True):
            row[[names.index(name) for name in several]] = 1 / len(several)
        mean, spread = features.mean(0), features.std(0) + 1e-6
        weights = torch.zeros(len(names), features.shape[1] + 1, requires_grad=True)
        probe = cls(names, mean, spread, weights)
        optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.cross_entropy(probe._scores(features), target)
            loss = loss + PENALTY * weights[:, :-1].square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        return cls(names, mean, spread, weights.detach())

    def _scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        ready = (features - self.mean) / self.spread
        return F.linear(ready, self.weights[:, :-1], self.weights[:, -1])

    def name(self, features: Float[Tensor, "n d"], count: int = 1) -> list[tuple[str, ...]]:
        """Name the ``count`` likeliest classes of every picture, the likeliest first."""
        best = self._scores(features).topk(count, dim=1).indices
        return [tuple(self.names[i] for i in row) for row in best.tolist()]


def shares(said: Sequence[str], right: Sequence[str]) -> dict[str, Any]:
    """Give the share named right, over all and by word, with the usual mistake of each."""
    pairs = list(zip(said, right, strict=True))
    by_word = {}
    for word in sorted(set(right)):
        answers = Counter(a for a, b in pairs if b == word)
        wrong = [a for a, _ in answers.most_common() if a != word]
        by_word[word] = {
            "share": answers[word] / answers.total(),
            "mistaken_for": wrong[0] if wrong else None,
        }
    share = sum(a == b for a, b in pairs) / len(pairs)
    return {"share": share, "count": len(pairs), "chance": 1 / len(by_word), "by_word": by_word}
