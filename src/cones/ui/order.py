"""What a page may ask for: concepts with their weights, and what to draw with them.

These come from a browser, so every field is checked here and nowhere else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cones.errors import SearchError

MOST_PICTURES, MOST_STEPS, MOST_GUIDANCE, LONGEST = 8, 1000, 100, 10_000


@dataclass(frozen=True)
class Choice:
    """One concept that is switched on.

    Attributes:
        number: Of the concept in the studio.
        strength: 1 shuts its neurons, less shrinks them to ``(1 - strength) * theta``.
        level: Which of its densities; None is the one the file was saved with.
        identifier: Another word for its first subject; None keeps the file's.
    """

    number: int
    strength: float = 1.0
    level: int | None = None
    identifier: str | None = None

    @classmethod
    def parse(cls, given: Any) -> "Choice":
        """Read a choice from JSON.

        Raises:
            SearchError: A field is missing, of another type or out of range.
        """
        given = _mapping(given)
        level, identifier = given.get("level"), given.get("identifier")
        return cls(
            number=_whole(given, "number", 1, 2**31),
            strength=_real(given, "strength", 0, 1),
            level=None if level is None else _whole(given, "level", 0, 2**31),
            identifier=None if identifier is None else _text(given, "identifier"),
        )


@dataclass(frozen=True)
class Order:
    """What to draw.

    Attributes:
        prompt: With the concepts' identifiers in it.
        choices: Concepts that are on; none draws with the untouched model alone.
        seed: Of the first picture; the others count on.
        steps: Steps of the pipeline's sampler.
        guidance: Scale of classifier-free guidance.
        count: Pictures in a row, at most eight.
        attention: Record where words look, for :meth:`cones.ui.studio.Studio.attention`.
    """

    prompt: str
    choices: tuple[Choice, ...] = ()
    seed: int = 0
    steps: int = 50
    guidance: float = 7.5
    count: int = 2
    attention: bool = True

    @classmethod
    def parse(cls, given: Any) -> "Order":
        """Read an order from JSON.

        Raises:
            SearchError: A field is missing, of another type or out of range.
        """
        given = _mapping(given)
        return cls(
            prompt=_text(given, "prompt"),
            choices=choices(given),
            seed=_whole(given, "seed", 0, 2**53),
            steps=_whole(given, "steps", 1, MOST_STEPS),
            guidance=_real(given, "guidance", 0, MOST_GUIDANCE),
            count=_whole(given, "count", 1, MOST_PICTURES),
            attention=given.get("attention") is True,
        )


def choices(given: Any) -> tuple[Choice, ...]:
    """Read the list ``choices`` from JSON; raises what :meth:`Choice.parse` does."""
    listed = _mapping(given).get("choices")
    if not isinstance(listed, list):
        raise SearchError(f"found choices {listed!r}; expected a list; reload the page")
    return tuple(Choice.parse(one) for one in listed)


def _mapping(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise SearchError(f"found {type(given).__name__}; expected an object; reload the page")
    return given


def _whole(given: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = given.get(name)
    if type(value) is not int or not low <= value <= high:
        raise SearchError(
            f"found {name} {value!r}; expected a whole number from {low} to {high}; correct it"
        )
    return value


def _real(given: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = given.get(name)
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
        raise SearchError(
            f"found {name} {value!r}; expected a number from {low} to {high}; correct it"
        )
    return float(value)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
        raise SearchError(
            f"found {str(value)[:40]!r} as {name}; expected 1 to {LONGEST} characters; "
            "write some words"
        )
    return value.strip()
