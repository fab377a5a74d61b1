"""What an evaluation compares: methods and controls, groups of subjects, prompts, pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cones.bench.cells import Photos
from cones.errors import SearchError
from cones.find import Settings
from cones.methods import METHODS

# Four kinds, as in the paper (Sec. 4.1); colours and styles are its edits by text too (Fig. A11).
KINDS: dict[str, tuple[str, ...]] = {
    "background": (
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
    ),
    "object": (
        "a {} next to a ball",
        "a photo of a {} next to a chair",
        "a {} in front of a sofa",
        "a photo of a {} and a cup",
    ),
    "style": (
        "a drawing of a {}",
        "an emoji of a {}",
        "a sticker of a {} on the grass",
    ),
    "property": (
        "a red {} in a room",
        "a photo of a blue {} on a road",
        "a white {} in a park",
    ),
}
KIND = {prompt: kind for kind, prompts in KINDS.items() for prompt in prompts}
PROMPTS = tuple(KIND)
# For choosing rates: places that no prompt above names.
TUNING_PROMPTS = (
    "a photo of a {} in a street",
    "a {} at the seaside",
    "a picture of a {} in a meadow",
    "a {} in a lobby",
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
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"prompts": PROMPTS[::5], "images": 2, "steps": 15},
    "mini": {"images": 1, "steps": 20},
    "full": {"images": 50, "steps": 50},
    "cc101": {"images": 5, "steps": 50, "left_out": ("text_alignment", "text_alignment_of_mean")},
    "dreambench": {"images": 4, "steps": 50},
}
"""How much is drawn and what is shown, by the name of a protocol.

``quick`` and ``mini`` are for the built-in model. ``full`` is the paper's (Sec. 4.1).
``cc101`` and ``dreambench`` are those of CustomConcept101 and
DreamBooth, with our prompts: five and four pictures of each; the first scores text by CLIPScore.
"""
WORDS = ("V*", "V2*", "V3*", "V4*", "V5*")
LARGEST = 4  # subjects in a group


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
        left_out: Scores that are not shown, so that no table mixes scales.
    """

    methods: tuple[str, ...] = (UNTOUCHED, RANDOM, *METHODS)
    groups: tuple[tuple[str, ...], ...] = ()
    seeds: tuple[int, ...] = (0,)
    prompts: tuple[str, ...] = PROMPTS
    images: int = 2
    steps: int = 25
    guidance: float = 7.5
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prior: Settings = field(default_factory=lambda: Settings(prior_prompts="noun"))
    left_out: tuple[str, ...] = ("clip_score",)

    def __post_init__(self) -> None:
        """Refuse what cannot be compared before anything is loaded."""
        unknown = set(self.methods) - {*METHODS, *CONTROLS}
        if unknown:
            raise SearchError(
                f"found no method {', '.join(sorted(unknown))}; expected some of "
                f"{', '.join((*CONTROLS, *METHODS))}; choose among these"
            )
        sizes = {len(group) for group in self.groups}
        if not self.groups or not sizes <= set(range(1, LARGEST + 1)):
            raise SearchError(
                f"found groups {self.groups}; expected at least one, of one to {LARGEST} "
                "subjects each; name some"
            )

    @property
    def words(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """Give the subjects of every group a word each.

        A subject keeps its word over groups wherever that is free, so that what was found of it
        alone can be joined; larger groups choose first.
        """
        found: dict[tuple[str, ...], tuple[str, ...]] = {}
        earlier: dict[str, list[str]] = {}
        for group in sorted(self.groups, key=len, reverse=True):
            chosen: dict[str, str] = {}
            for name in sorted(group, key=lambda name: name not in earlier):
                free = [w for w in (*earlier.get(name, ()), *WORDS) if w not in chosen.values()]
                chosen[name] = free[0]
            for name, word in chosen.items():
                earlier.setdefault(name, []).append(word)
            found[group] = tuple(chosen[name] for name in group)
        return found


@dataclass(frozen=True)
class Cell:
    """One method on one group of subjects with one seed; every subject has its word."""

    method: str
    group: tuple[Photos, ...]
    words: tuple[str, ...]
    seed: int

    @property
    def label(self) -> str:
        """Name it for people."""
        return f"{self.method} {'+'.join(photos.name for photos in self.group)} {self.seed}"

    @property
    def spoken(self) -> str:
        """Name the subjects in a prompt: ``V* cat and a V2* dog``."""
        pairs = zip(self.words, self.group, strict=True)
        return " and a ".join(f"{word} {photos.noun}" for word, photos in pairs)

    @property
    def plain(self) -> str:
        """Name them without identifiers."""
        return " and a ".join(photos.noun for photos in self.group)
