"""A model, the concepts loaded beside it, and pictures drawn with and without them.

The untouched row is kept until something but a slider changes. Weights are changed in place, so
one order is drawn at a time; the server keeps the queue. Knows no web.
"""

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cones.concept import Concept
from cones.drawing import generate, png_bytes
from cones.errors import ConesError, MaskError
from cones.fingerprint import Fingerprint
from cones.models import Pipeline, model_for
from cones.ui.order import Order

MOST_LOADED = 64
Tell = Callable[[dict[str, object]], object]


@dataclass(frozen=True)
class Entry:
    """A loaded concept and the name of its file."""

    number: int
    name: str
    concept: Concept


class Studio:
    """Concepts of one pipeline, which is as before after every call, bit for bit."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Start without concepts."""
        self.pipeline, self.model = pipeline, model_for(pipeline)
        self.entries: dict[int, Entry] = {}
        weights = self.model.weights()
        self._shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self._base = Fingerprint.of(weights, self.model.name)
        self._kept: tuple[object, list[str]] = (None, [])
        self._last = 0

    def add(self, name: str, concept: Concept) -> Entry:
        """Load a concept that is of this model, or of one that it was tuned from.

        Raises:
            MaskError: It is of another model, or loaded already, or one too many; not loaded then.
        """
        concept.base.require(self._base)
        known = [repr(e.concept) + e.concept.mask.digest for e in self.entries.values()]
        fits = concept.mask.shapes.items() <= self._shapes.items()
        if not fits or repr(concept) + concept.mask.digest in known or len(known) >= MOST_LOADED:
            why = f"loaded already, or one of more than {MOST_LOADED}" if fits else "of odd layers"
            raise MaskError(f"found {name} {why}; expected a new concept of this model; choose it")
        self._last += 1
        self.entries[self._last] = Entry(self._last, name, concept)
        return self.entries[self._last]

    def chosen(self, order: Order) -> list[Concept]:
        """Give the concepts that are on, at the chosen densities and under the chosen words."""
        found = []
        for choice in order.choices:
            entry = self.entries.get(choice.number)
            if entry is None:
                raise MaskError(f"found no concept {choice.number}; expected one; reload the page")
            concept = entry.concept.at(choice.density or entry.concept.density)
            found.append(concept.renamed(choice.identifier or concept.identifier))
        return found

    def draw(self, order: Order, tell: Tell, stop: threading.Event) -> None:
        """Draw an order with the untouched model and then with its concepts, from one noise.

        ``tell`` hears of steps ``done`` and their ``total``, and of each ``row`` with its
        ``pictures`` (addresses of PNG data). ``stop``, once set, ends it before the next step.

        Raises:
            ConesError: The concepts do not fit each other or the prompt, or it was stopped.
        """
        concepts = self.chosen(order)
        strengths = [choice.strength for choice in order.choices]
        rows = {"untouched": [0.0] * len(strengths)} | ({"shut": strengths} if strengths else {})
        named = [(choice.number, choice.identifier) for choice in order.choices]
        plain = order.model_copy(update={"choices": named})
        if self._kept[0] == plain:
            tell({"row": "untouched", "pictures": self._kept[1]})
            del rows["untouched"]
        passes = len(rows) * len(self._batches(order)) * order.num_inference_steps
        with self._heard(passes, tell, stop):
            for row, each in rows.items():
                pictures = self._drawn(order, concepts, each)
                tell({"row": row, "pictures": pictures})
                if row == "untouched":
                    self._kept = plain, pictures

    def _batches(self, order: Order) -> list[range]:
        size = 4 if self.model.size <= 512 else 1
        seeds = range(order.seed, order.seed + order.count)
        return [seeds[k : k + size] for k in range(0, order.count, size)]

    def _drawn(self, order: Order, concepts: list[Concept], strengths: list[float]) -> list[str]:
        drawing = order.model_dump(include={"num_inference_steps", "guidance_scale"})
        shut = {"strengths": strengths, **drawing}
        said = [concept.prompt for concept in concepts]
        record = {"model": self.model.name, "prompt": order.prompt, "concepts": said, **shut}
        found = []
        for seeds in self._batches(order):
            images = generate(self.pipeline, concepts, order.prompt, seeds=seeds, **shut)
            for seed, image in zip(seeds, images, strict=True):
                data = base64.b64encode(png_bytes(image, {**record, "seed": seed}))
                found.append(f"data:image/png;base64,{data.decode()}")
        return found

    @contextmanager
    def _heard(self, passes: int, tell: Tell, stop: threading.Event) -> Iterator[None]:
        """Tell of every pass of the model, or end the drawing there."""
        done = 0

        def before(*_: object) -> None:
            nonlocal done
            if stop.is_set():
                raise ConesError("stopped; the model is as before; draw again")
            tell({"done": min(done, passes), "total": passes})
            done += 1

        hook = self.model.module.register_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()
