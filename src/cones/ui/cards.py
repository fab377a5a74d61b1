"""What a page says of a concept, as plain values."""

from collections.abc import Sequence
from typing import Any

from cones.concept import Concept
from cones.ui.order import Choice


def card(concept: Concept) -> dict[str, Any]:
    """Say what a concept is: its words, and of every level the density and what was measured."""
    return {
        "members": [{"identifier": m.identifier, "noun": m.noun} for m in concept.members],
        "levels": list(concept.densities),
        "neurons": [len(mask) for mask in concept.levels],
        "level": concept.level,
        "base": concept.base.model,
        "certificate": [certificate_line(concept, k) for k in range(len(concept.levels))],
        "harms": concept.certificate.get("raises_loss") is True,
    }


def in_force(concepts: Sequence[Concept], choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Say what a picture was drawn with, for its settings."""
    return [
        {
            "words": [f"{member.identifier} {member.noun}" for member in concept.members],
            "density": concept.mask.density,
            "mask": concept.mask.digest,
            "strength": choice.strength,
        }
        for concept, choice in zip(concepts, choices, strict=True)
    ]


def certificate_line(concept: Concept, level: int) -> str:
    """Say in one line what was measured of a level on held-out samples, if anything was."""
    found = concept.certificate
    try:
        shut = found["shut"] if level == concept.level else found["curve"][level]
        parts = [("untouched", found["untouched"]), ("shut", shut)]
        if level == concept.level:
            parts.append(("random mask", found["random"]))
        return ", ".join(f"{name} {part['subject']:.4f}" for name, part in parts)
    except (LookupError, TypeError, ValueError):  # files of others may measure other things
        return ""
