"""How to search: one frozen record, checked when it is made.

A setting that the chosen rule does not read is not recorded with the concept: a concept file
claims nothing that had no effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from cones.errors import SearchError

DENSITIES = (0.0066, 0.0132, 0.0243)  # what the line search chooses from
JOINT_DENSITIES = (0.0132, 0.0243, 0.0454, 0.0701)  # Table 2: one to four subjects

_CHOICES = {
    "rule": ("refine", "sum", "adam"),
    "scope": ("both", "cross", "self"),
    "prior": ("agreement", "drawn", "none"),
    "weighting": ("uniform", "min-snr"),
}
_RANGES = {  # lowest and highest value, of the type that is expected
    "density": (1e-6, 0.9),
    "steps": (1, 10**6),
    "score_steps": (1, 10**6),
    "rate": (1e-9, 10.0),
    "score_rate": (1e-9, 10.0),
    "batch": (1, 4096),
    "micro_batch": (1, 4096),
    "prior_weight": (0.0, 1e4),
    "drift": (1e-6, 1e4),
    "prior_count": (1, 2000),
    "prior_steps": (1, 1000),
    "prior_guidance": (0.0, 100.0),
    "guard": (1e-3, 100.0),
    "flip": (False, True),
    "draws": (2, 10**6),
    "seed": (0, 2**63 - 1),
}
_OPTIONAL = ("density", "micro_batch", "drift", "guard")


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        rule: ``refine`` scores by Algorithm A2, then exchanges neurons with the mask in place;
            ``adam`` is that scoring alone; ``sum`` is Algorithm 1 to the letter.
        density: Share of the searched weights to shut; 1.32 % is the paper's. None tries 0.66,
            1.32 and 2.43 % and keeps the sparsest that is as good as the best: thrice the time.
        scope: Attention: ``both``, ``cross`` or ``self``.
        steps: Gradients of the refinement, or of the scoring for ``sum`` and ``adam``.
        score_steps: Gradients of the scoring before a refinement.
        rate: Step of a refined score; typical scores lie 1 below the border.
        score_rate: Learning rate of the scoring (rho and beta of the paper).
        batch: Samples of the subject in a gradient, and as many of the prior.
        micro_batch: Samples in the network at once; None is all of a gradient's.
        prior: ``agreement`` holds the model to its own predictions, ``drawn`` is Eq. 3 on
            pictures that it drew of the noun; or ``none``.
        prior_weight: Lambda of Eq. 4.
        drift: Mean squared change of the model's predictions, as in the certificate, at which
            the search shall end: lambda is then steered.
        prior_count: Prior pictures drawn.
        prior_steps: Sampling steps of a drawn picture, in prior and certificate.
        prior_guidance: Guidance scale of a drawn picture.
        weighting: Omega_t of Eq. 1: ``uniform`` or ``min-snr``.
        guard: Shut no weight above this many standard deviations of its parameter.
        flip: Show every photo mirrored as well.
        draws: Samples behind every figure of the certificate.
        seed: Of all draws.

    Raises:
        SearchError: A value is of the wrong type or out of range.
    """

    rule: str = "refine"
    density: float | None = 0.0132
    scope: str = "both"
    steps: int = 300
    score_steps: int = 40
    rate: float = 0.02
    score_rate: float = 1e-3
    batch: int = 8
    micro_batch: int | None = None
    prior: str = "agreement"
    prior_weight: float = 0.1
    drift: float | None = None
    prior_count: int = 32
    prior_steps: int = 20
    prior_guidance: float = 2.0
    weighting: str = "uniform"
    guard: float | None = None
    flip: bool = True
    draws: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be searched, before anything is loaded."""
        for field in fields(self):
            _check(field.name, getattr(self, field.name))
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
            {"prior": "drawn", "prior_weight": 1.0, **drawn}
        )

    def changed(self, changes: Mapping[str, object]) -> "Settings":
        """Give a copy with other values.

        Raises:
            SearchError: There is no such setting, or a value is wrong.
        """
        known = [field.name for field in fields(self)]
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
            unread += ("prior_weight", "prior_count")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in unread}


def _check(name: str, value: object) -> None:
    """Refuse a value of the wrong type or out of range."""
    if value is None and name in _OPTIONAL:
        return
    if name in _CHOICES:
        good, expected = value in _CHOICES[name], f"one of {', '.join(_CHOICES[name])}"
    else:
        low, high = _RANGES[name]
        kinds = (int, float) if type(low) is float else (type(low),)
        good = isinstance(value, int | float) and type(value) in kinds and low <= value <= high
        expected = f"{kinds[-1].__name__} from {low} to {high}"
    if not good:
        raise SearchError(f"{name} is {value!r}; expected {expected}; change it")
