"""How to search: the settings of :func:`cones.find.find`, checked before anything is loaded."""

from dataclasses import dataclass

from cones.errors import SearchError
from cones.prior import PRIOR_PROMPTS
from cones.rules import RULES

DENSITY = 0.0132  # Sec. 4: 1.32 % +- 0.29 % for a single subject
DENSITIES = (0.001, 0.0025, 0.005, 0.009, DENSITY, 0.0243, 0.0454, 0.0701)


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        rule: One of :data:`cones.rules.RULES`.
        density: Share of the searched weights to shut. ``None``: search for the target density
            of the paper, then let the line search choose among the levels.
        scope: ``both``, ``cross`` or ``self`` attention.
        steps: Gradients of the scoring search (K).
        refine_steps: Gradients of the refinement, for rules that refine.
        rate: Learning rate of the gate (rho).
        guard: Leave weights alone above this many standard deviations of their parameter.
        batch: Samples of the subject in a gradient, and as many of the prior.
        prior_weight: Lambda of Eq. 4.
        weighting: ``omega_t``: ``uniform`` or ``min-snr``.
        prior_count: Prior pictures drawn when none are given.
        prior_steps: Sampling steps of a prior picture.
        prior_prompts: What prior pictures show: ``scenes``, the category in the places of
            :data:`cones.prior.SCENES`, so that the model goes on listening to what stands around
            the subject; or ``noun``, the category alone, as in the paper.
        flip: Also show every photo mirrored.
        held_out: Samples of each half of the loss in the certificate.
        levels: Keep, and measure, masks of other densities too; ``density`` must be given to do
            without.
        seed: Of all draws.
    """

    rule: str = "refine"
    density: float | None = None
    scope: str = "both"
    steps: int = 200
    refine_steps: int = 300
    rate: float = 1e-3
    guard: float | None = None
    batch: int = 8
    prior_weight: float = 1.0
    weighting: str = "uniform"
    prior_count: int = 64
    prior_steps: int = 25
    prior_prompts: str = "scenes"
    flip: bool = True
    held_out: int = 256
    levels: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be searched before anything is loaded."""
        if self.rule not in RULES:
            raise SearchError(
                f"rule is {self.rule!r}, expected one of {', '.join(RULES)}; choose one"
            )
        if self.density is not None and not 0 < self.density < 1:
            raise SearchError(f"density is {self.density}, expected 0 to 1, e.g. {DENSITY}")
        if not self.levels and self.density is None:
            raise SearchError(
                "density is None, expected e.g. 0.0132 without levels to choose from"
            )
        if self.prior_prompts not in PRIOR_PROMPTS:
            raise SearchError(
                f"prior_prompts is {self.prior_prompts!r}, expected one of "
                f"{', '.join(PRIOR_PROMPTS)}; choose one"
            )
        if min(self.steps, self.refine_steps, self.batch, self.held_out, self.prior_count) < 1:
            raise SearchError("steps, batch, held_out and prior_count must be at least 1")
