"""What a browser may ask for. Every field is checked here, and nowhere else."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cones.errors import PromptError


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False
    )


class Choice(_Strict):
    """A concept that is on: its number and strength, and which of its densities and what word."""

    number: Annotated[int, Field(ge=1)]
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    identifier: Annotated[str, Field(min_length=1, max_length=40)] | None = None


class Order(_Strict):
    """What to draw: ``count`` pictures, from the seeds ``seed``, ``seed + 1`` and so on.

    ``untouched`` asks for the untouched model's pictures too; without choices they come anyway.
    """

    prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    choices: Annotated[list[Choice], Field(max_length=8)] = []
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    count: Annotated[int, Field(ge=1, le=8)] = 2
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] = 25
    guidance_scale: Annotated[float, Field(ge=0, le=50)] | None = None
    untouched: bool = True


def parse(data: bytes) -> Order:
    """Read an order from JSON.

    Raises:
        PromptError: A field is missing, unknown, of another type or out of range.
    """
    try:
        return Order.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the order"
        raise PromptError(f"{field} does not fit: {first['msg']}; correct it") from error
