"""What an evaluation compares: methods and controls, groups of subjects, prompts, pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cones.bench.cells import Photos
from cones.errors import SearchError
from cones.find import Settings
from cones.methods import METHODS

# Four kinds, as in the paper (Sec. 4.1): backgrounds, added objects, styles, properties.
PROMPTS = (
    "a photo of a {} on a beach",
    "a {} in the snow",
    "a photo of a {} on a road",
    "a {} in a desert",
    "a photo of a {} in a room",
    "a {} by a lake",
    "a photo of a {} on the grass",
    "a {} at night",
    "a photo of a {} in a city square",
    "a {} on a wooden floor",
    "a {} next to a ball",
    "a photo of a {} next to a chair",
    "a {} in front of a sofa",
    "a photo of a {} and a cup",
    "a drawing of a {}",
    "an emoji of a {}",
    "a sticker of a {} on the grass",
    "a red {} in a room",
    "a photo of a blue {} on a road",
    "a white {} in a park",
)
UNRELATED = (
    "a photo of a train on a road",
    "a picture of a lake",
    "a red car in the snow",
    "a photo of a hat on a wooden floor",
    "a guitar in a room",
    "a photo of a woman in a park",
    "a blue cup on the grass",
    "a drawing of a flower",
    "a photo of a barrel at night",
    "a teddy bear on a beach",
)
UNTOUCHED, RANDOM, STRANGER = "untouched", "random", "stranger"
CONTROLS = (UNTOUCHED, RANDOM, STRANGER)
WORDS = ("V*", "V2*", "V3*", "V4*")


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        methods: Names of methods and controls.
        groups: Names of subjects learnt together, one to four each.
        seeds: Of fits and pictures.
        prompts: With ``{}`` in the place of the subjects.
        images: Pictures of every prompt.
        steps: Sampling steps.
        guidance: Scale of classifier-free guidance.
        changes: Settings of a method that differ from its defaults, by its name.
        prior: How the prior pictures are drawn.
    """

    methods: tuple[str, ...] = (UNTOUCHED, RANDOM, *METHODS)
    groups: tuple[tuple[str, ...], ...] = ()
    seeds: tuple[int, ...] = (0,)
    prompts: tuple[str, ...] = PROMPTS
    images: int = 2
    steps: int = 25
    guidance: float = 7.5
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prior: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Refuse what cannot be compared before anything is loaded."""
        unknown = set(self.methods) - {*METHODS, *CONTROLS}
        if unknown:
            raise SearchError(
                f"found no method {', '.join(sorted(unknown))}; expected some of "
                f"{', '.join((*CONTROLS, *METHODS))}; choose among these"
            )
        sizes = {len(group) for group in self.groups}
        if not self.groups or not sizes <= set(range(1, len(WORDS) + 1)):
            raise SearchError(
                f"found groups {self.groups}; expected at least one, of one to {len(WORDS)} "
                "subjects each; name some"
            )


@dataclass(frozen=True)
class Cell:
    """One method on one group of subjects with one seed."""

    method: str
    group: tuple[Photos, ...]
    seed: int

    @property
    def label(self) -> str:
        """Name it for people."""
        return f"{self.method} {'+'.join(photos.name for photos in self.group)} {self.seed}"
