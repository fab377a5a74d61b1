"""A model, the concepts loaded beside it, and pictures drawn with and without them.

Rows of pictures are kept by what made them, so that only what an order changes is drawn anew. The
weights are changed in place while a row is drawn, so one thing happens at a time: whoever comes
meanwhile is refused, not queued. Knows no web page; :mod:`cones.ui.server` serves it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from cones.attention import token_positions
from cones.concept import Concept, combine, named_apart
from cones.concept_file import dumps, loads
from cones.errors import ConesError, SearchError
from cones.generate import missing_identifiers, prepare, verdicts
from cones.intervention import Intervention
from cones.ui.cards import card, in_force
from cones.ui.order import Choice, Order
from cones.ui.rows import Row, batches, draw_row, weighed

KEPT = 16  # rows remembered


class Stopped(ConesError):
    """Drawing was stopped on demand; the weights are as before."""


@dataclass(frozen=True)
class Drawn:
    """What an order gave.

    Attributes:
        untouched: Name of the row drawn with the untouched model.
        shut: Name of the row drawn with the concepts, or None if none was on.
        count: Pictures in each.
        words: Of the prompt, once each.
        notes: What is probably not meant.
        fresh: Rows that were drawn now and not kept from before.
    """

    untouched: str
    shut: str | None
    count: int
    words: list[str]
    notes: list[str]
    fresh: int


class Studio:
    """Concepts of one model, chosen and weighed anew with every order.

    Args:
        pipeline: Text-to-image pipeline. Identifiers of concepts are registered in it when they
            are first drawn; its weights are as before after every call, bit for bit.
        model: Its name, for the page and the pictures' settings.
    """

    def __init__(self, pipeline: Any, model: str) -> None:
        """Start without concepts."""
        self.pipeline = pipeline
        self.model = model
        self.progress = (0, 0)
        self.concepts: dict[int, tuple[str, Concept, str]] = {}
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._next = 1

    def add(self, name: str, data: bytes) -> int:
        """Load a concept file and return its number.

        Args:
            name: Of the file, for the page.
            data: Its bytes, from wherever: they are checked as :func:`cones.concept_file.loads`
                does and never run.

        Raises:
            ConesError: They are no concept file, or not of this model. Nothing is loaded then.
        """
        concept = loads(data)
        with self._alone():
            (verdict,) = verdicts(self.pipeline, [concept])
        number, self._next = self._next, self._next + 1
        self.concepts[number] = (name, concept, verdict)
        return number

    def remove(self, number: int) -> None:
        """Forget a concept; one that is not there is no error."""
        self.concepts.pop(number, None)

    def describe(self, number: int) -> dict[str, Any]:
        """Say what a loaded concept is, as plain values for a page."""
        name, concept, verdict = self.concepts[number]
        return {"number": number, "file": name, "verdict": verdict, **card(concept)}

    def chosen(self, choices: Sequence[Choice]) -> list[Concept]:
        """Give the concepts that are on, at the chosen levels and under the chosen words.

        Raises:
            ConesError: One is not there or has no such level, or one word names two subjects.
        """
        found = []
        for choice in choices:
            if choice.number not in self.concepts:
                raise SearchError(
                    f"found no concept {choice.number}; expected one of {sorted(self.concepts)}; "
                    "reload the page"
                )
            concept = self.concepts[choice.number][1]
            if choice.level is not None:
                concept = replace(concept, level=choice.level)
            if choice.identifier not in (None, concept.identifier):
                concept = concept.renamed(choice.identifier)
            found.append(concept)
        reduce(named_apart, [concept.members for concept in found], ())
        return found

    def mixture(self, choices: Sequence[Choice]) -> bytes:
        """Lay out one concept file with all that is on: the union of the masks, not strengths.

        Raises:
            ConesError: Nothing is on, or the concepts conflict.
        """
        concepts = self.chosen(choices)
        if not concepts:
            raise SearchError("found no concept switched on; expected one or more; tick one")
        return dumps(reduce(combine, concepts))

    def draw(self, order: Order) -> Drawn:
        """Draw an order with the untouched model and with its concepts, from the same noise.

        Rows that were drawn before are kept. A neuron that several concepts hold is shut by the
        strongest of them.

        Raises:
            ConesError: Something else is being drawn, the concepts do not fit the model or each
                other, or :meth:`stop` was called. The weights are as before.
        """
        with self._alone():
            concepts = self.chosen(order.choices)
            prepare(self.pipeline, concepts)
            plans: list[list[Intervention]] = [[]]
            if concepts:
                plans.append(weighed(concepts, [choice.strength for choice in order.choices]))
            named = {self._name(order, plan): plan for plan in plans}
            missing = {name: plan for name, plan in named.items() if not self._kept(name, order)}
            self.progress = (0, len(missing) * order.steps * batches(order))
            for name, plan in missing.items():
                described = in_force(concepts, order.choices) if plan else []
                settings = {"model": self.model, "concepts": described}
                self._keep(
                    name,
                    draw_row(self.pipeline, order, plan, settings=settings, on_step=self._tick),
                )
            names = list(named)
            return Drawn(
                untouched=names[0],
                shut=names[-1] if concepts else None,
                count=order.count,
                words=list(dict.fromkeys(order.prompt.split())),
                notes=self._notes(concepts, order),
                fresh=len(missing),
            )

    def stop(self) -> None:
        """End a drawing before its next step; rows that are finished stay."""
        self._stop.set()

    def picture(self, name: str, number: int) -> bytes:
        """Give picture ``number`` of a row as a PNG that carries its settings.

        Raises:
            SearchError: There is no such row, or it was forgotten.
        """
        return self._found(name, number).png(number)

    def attention(self, name: str, number: int, word: str) -> bytes:
        """Give a picture lit by where a word looks, averaged over heads, layers and steps.

        Raises:
            SearchError: The prompt does not say the word, or attention was not recorded.
        """
        row = self._found(name, number)
        if row.maps is None:
            raise SearchError("found no attention; expected it recorded; switch it on and draw")
        tokens = token_positions(self.pipeline.tokenizer, row.settings["prompt"], word)
        return row.lit(number, tokens, word)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise SearchError(
                "found a drawing under way; expected none, as the weights are changed in place "
                "meanwhile; wait for it or stop it"
            )
        try:
            self._stop.clear()
            yield
        finally:
            self.progress = (0, 0)
            self._lock.release()

    def _name(self, order: Order, plan: Sequence[Intervention]) -> str:
        """Name a row by all that its pictures depend on; the tokens say what words mean."""
        tokens = self.pipeline.tokenizer(order.prompt).input_ids
        made = (order.prompt, tokens, order.seed, order.steps, order.guidance, order.count)
        weights = [(layer.mask.digest, layer.strength) for layer in plan]
        return hashlib.sha256(repr((made, weights)).encode()).hexdigest()[:20]

    def _kept(self, name: str, order: Order) -> bool:
        row = self._rows.get(name)
        if row is None or (order.attention and row.maps is None):
            return False
        self._rows.move_to_end(name)
        return True

    def _keep(self, name: str, row: Row) -> None:
        self._rows[name] = row
        while len(self._rows) > KEPT:
            self._rows.popitem(last=False)

    def _found(self, name: str, number: int) -> Row:
        row = self._rows.get(name)
        if row is None or not 0 <= number < len(row.images):
            raise SearchError(
                f"found no picture {number} of row {name!r}; expected one of the last {KEPT} "
                "rows; draw it again"
            )
        return row

    def _tick(self) -> None:
        """Count a step of the sampler, or end there."""
        if self._stop.is_set():
            raise Stopped("stopped; finished rows are kept, the weights are as before; draw again")
        done, count = self.progress
        self.progress = (min(done + 1, count), count)

    def _notes(self, concepts: Sequence[Concept], order: Order) -> list[str]:
        said = [
            f"The prompt does not say {word!r}, so its subject will hardly appear."
            for word in missing_identifiers(concepts, [order.prompt])
        ]
        for choice in order.choices:
            name, concept, verdict = self.concepts[choice.number]
            if verdict == "fine-tune":
                said.append(f"{name} was found on {concept.base.model!r}, a relative of this.")
        return said
