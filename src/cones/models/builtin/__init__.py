"""The model that ships with the library: where it lies, and how it likes to be drawn from."""

from pathlib import Path

from cones.errors import ModelError

NAME = "cones-builtin"
GUIDANCE = 3.0


def folder() -> Path:
    """Give the folder of the shipped weights, in diffusers layout.

    Raises:
        ModelError: The weights are not there.
    """
    found = Path(__file__).parent / "weights"
    if not (found / "model_index.json").is_file():
        raise ModelError(
            f"found no built-in weights in {str(found)!r}; expected a model in diffusers layout; "
            "run python -m pretraining.train, or give another model"
        )
    return found
