"""The model that ships with the library: where it lies, and how it likes to be drawn from."""

from pathlib import Path

NAME = "cones-builtin"
GUIDANCE = 3.0


def folder() -> Path:
    """Give the folder of the shipped weights, in diffusers layout."""
    return Path(__file__).parent / "weights"
