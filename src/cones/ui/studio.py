"""A model, the concepts loaded beside it, and pictures drawn as a browser orders them.

Every field of an order is checked here, and nowhere else. Weights are changed in place, so one
order is drawn at a time; the server queues. Knows no web.
"""

import base64
import itertools
import threading
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cones.concept import Concept
from cones.drawing import generate, png_bytes
from cones.errors import ConesError, MaskError, PromptError
from cones.fingerprint import Fingerprint
from cones.models import Pipeline, model_for
from cones.models.sampling import at_once

MOST_LOADED = 64
Tell = Callable[[dict[str, object]], object]


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
    """Read an order from JSON; what does not fit is a PromptError."""
    try:
        return Order.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the order"
        raise PromptError(f"{field} does not fit: {first['msg']}; correct it") from error


class Studio:
    """Concepts of one pipeline, which is as before after every call, bit for bit."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Start without concepts."""
        self.pipeline, self.model = pipeline, model_for(pipeline)
        self.loaded: dict[int, tuple[str, Concept]] = {}  # by number: name of the file, concept
        self._base = Fingerprint.of(self.model.weights(), self.model.name)
        self._numbers = itertools.count(1)

    def add(self, name: str, concept: Concept) -> int:
        """Load a concept of this model, or of one that it was tuned from; give its number."""
        concept.base.require(self._base)
        if len(self.loaded) >= MOST_LOADED:
            raise MaskError(
                f"found {name} beside {MOST_LOADED} concepts; expected fewer; close one"
            )
        number = next(self._numbers)
        self.loaded[number] = name, concept
        return number

    def chosen(self, order: Order) -> list[Concept]:
        """Give the concepts that are on, at the chosen densities and under the chosen words."""
        found = []
        for choice in order.choices:
            if choice.number not in self.loaded:
                raise MaskError(f"found no concept {choice.number}; expected one; reload the page")
            _, concept = self.loaded[choice.number]
            concept = concept.at(choice.density or concept.density)
            found.append(concept.renamed(choice.identifier or concept.words[0].identifier))
        return found

    def draw(self, order: Order, tell: Tell, stop: threading.Event) -> None:
        """Draw an order with the untouched model and then with its concepts, from one noise.

        ``tell`` hears of steps ``done`` and their ``total``, and of each ``row`` with its
        ``pictures`` (addresses of PNG data). ``stop``, once set, ends it by a ConesError before
        the next step.
        """
        concepts = self.chosen(order)
        shut = [choice.strength for choice in order.choices]
        rows = {"untouched": [0.0] * len(shut)} if order.untouched or not shut else {}
        rows |= {"shut": shut} if shut else {}
        batches = -(-order.count // at_once(self.model.size))
        total = len(rows) * batches * order.num_inference_steps
        done = itertools.count()

        def before(*_: object) -> None:
            if stop.is_set():
                raise ConesError("stopped; the model is as before; draw again")
            tell({"done": min(next(done), total), "total": total})

        with self.model.module.register_forward_pre_hook(before):
            for row, strengths in rows.items():
                tell({"row": row, "pictures": self._drawn(order, concepts, strengths)})

    def _drawn(self, order: Order, concepts: list[Concept], strengths: list[float]) -> list[str]:
        seeds = range(order.seed, order.seed + order.count)
        drawing = order.model_dump(include={"num_inference_steps", "guidance_scale"})
        shut = {"strengths": strengths, **drawing}
        images = generate(self.pipeline, concepts, order.prompt, seeds=seeds, **shut)
        said = [concept.prompt for concept in concepts]
        record = {"model": self.model.name, "prompt": order.prompt, "concepts": said, **shut}
        files = (png_bytes(i, {**record, "seed": s}) for i, s in zip(images, seeds, strict=True))
        return [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in files]
