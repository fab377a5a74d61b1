"""How to search: one frozen record, checked when it is made.

A setting that the chosen rule does not read is not recorded with the concept: a concept file
claims nothing that had no effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, get_args

from cones.errors import SearchError

DENSITIES = (0.0066, 0.0132, 0.0243)  # what the line search chooses from
JOINT_DENSITIES = (0.0132, 0.0243, 0.0454, 0.0701)  # Table 2: one to four subjects


def _within(default: int | float | None, low: int | float, high: int | float) -> Any:  # noqa: ANN401 - as field()
    return field(default=default, metadata={"limits": (low, high)})


def _one_of(*words: str) -> Any:  # noqa: ANN401 - as field()
    return field(default=words[0], metadata={"words": words})


@dataclass(frozen=True)
class Settings:
    """How to search.

    Rule ``refine`` scores by Algorithm A2, then exchanges neurons with the mask in place; ``adam``
    is that scoring alone and ``sum`` is Algorithm 1 to the letter. Prior ``agreement`` holds the
    model to its own predictions, ``drawn`` is Eq. 3 on pictures that it drew of the noun.

    Raises:
        SearchError: A value is of the wrong type or out of range.
    """

    rule: str = _one_of("refine", "sum", "adam")
    # Share of the searched weights to shut. None tries DENSITIES and keeps the sparsest that is
    # as good as the best.
    density: float | None = _within(0.0132, 1e-6, 0.9)
    scope: str = _one_of("both", "cross", "self")  # which attention
    steps: int = _within(300, 1, 10**6)  # gradients of refinement; of scoring for sum, adam
    score_steps: int = _within(20, 1, 10**6)  # gradients of the scoring before a refinement
    rate: float = _within(0.02, 1e-9, 10.0)  # of a refined score; a typical one starts at -1
    score_rate: float = _within(1e-3, 1e-9, 10.0)  # rho and beta of the paper
    batch: int = _within(4, 1, 4096)  # samples of the subject a gradient
    prior_batch: int = _within(2, 1, 4096)  # and of the prior: its variance is small
    micro_batch: int | None = _within(None, 1, 4096)  # samples at once; None: what fits
    prior: str = _one_of("agreement", "drawn", "none")
    prior_weight: float = _within(1.0, 0.0, 1e4)  # lambda of Eq. 4
    # Mean squared change of the model's predictions, as in the certificate, at which to end:
    # lambda is then steered.
    drift: float | None = _within(None, 1e-6, 1e4)
    prior_count: int = _within(24, 1, 2000)  # pictures drawn for the prior
    prior_steps: int = _within(12, 1, 1000)  # sampling steps, also of a certificate's pictures
    prior_guidance: float = _within(2.0, 0.0, 100.0)  # guidance scale of the same
    weighting: str = _one_of("uniform", "min-snr")  # omega_t of Eq. 1
    guard: float | None = _within(None, 1e-3, 100.0)  # shut only |theta| < guard * std
    # What the network computes in while it is searched; sums stay in float32. "auto" is bfloat16
    # on CPUs that have it, where it is faster, and else the pipeline's own precision.
    precision: str = _one_of("auto", "bfloat16", "pipeline")
    flip: bool = _within(True, False, True)  # show every photo mirrored as well
    draws: int = _within(128, 2, 10**6)  # samples behind every figure of the certificate
    seed: int = _within(0, 0, 2**63 - 1)  # of all draws

    def __post_init__(self) -> None:
        """Refuse what cannot be searched, before anything is loaded."""
        for each in fields(self):
            value, words = getattr(self, each.name), each.metadata.get("words")
            if words:
                good, expected = value in words, f"one of {', '.join(words)}"
            else:
                kinds, (low, high) = get_args(each.type) or (each.type,), each.metadata["limits"]
                good = type(value) in kinds or (float in kinds and type(value) is int)
                good = good and (value is None or low <= value <= high)
                expected = f"{getattr(kinds[0], '__name__', kinds[0])} from {low} to {high}"
            if not good:
                raise SearchError(f"{each.name} is {value!r}; expected {expected}; change it")
        if self.drift is not None and (self.rule, self.prior) != ("refine", "agreement"):
            raise SearchError(
                f"drift is {self.drift} with rule={self.rule!r} and prior={self.prior!r}; "
                "expected rule='refine' and prior='agreement', which steer it; leave drift out"
            )

    @classmethod
    def paper(cls) -> "Settings":
        """Give the paper's letter (Algorithm 1, Eqs. 2-4, Appendix B.4).

        The sum of so small steps ranks large weights first, and shutting 1.32 % of those wrecks
        every model we tried.
        """
        drawn = {"prior_count": 200, "prior_steps": 50, "prior_guidance": 7.5}
        return cls("sum", steps=1000, score_rate=2e-5, batch=2, flip=False).changed(
            {"prior": "drawn", **drawn}
        )

    def changed(self, changes: Mapping[str, object]) -> "Settings":
        """Give a copy with other values; an unknown name is a :class:`SearchError`."""
        known = [each.name for each in fields(self)]
        for name in changes:
            if name not in known:
                close = get_close_matches(name, known, 1) or ["one of them"]
                raise SearchError(
                    f"found the setting {name!r}; expected {', '.join(known)}; use {close[0]}"
                )
        return replace(self, **changes)

    def recorded(self) -> dict[str, str | int | float | bool | None]:
        """Give the settings that this search reads, and no others."""
        unread = () if self.rule == "refine" else ("score_steps", "rate", "drift")
        if self.prior == "none":
            unread += ("prior_weight", "prior_count", "prior_batch")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unread}
