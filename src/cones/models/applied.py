"""Put concepts into a pipeline for a while: say their words, shut their neurons, undo both.

Contexts nest. All is checked before anything changes; on leaving, also by an exception, every bit
of the weights, the tokenizers and the embedding tables is as before.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from cones.concept import Concept, Word
from cones.errors import MaskError
from cones.fingerprint import Fingerprint
from cones.intervention import shut
from cones.mask import Mask
from cones.models import model_for
from cones.models.projections import projections
from cones.models.protocol import Pipeline
from cones.models.words import spoken

# What is open now, by network: concepts, and the fingerprint of the untouched weights.
_OPEN: WeakKeyDictionary[nn.Module, list[tuple[Concept, Fingerprint]]] = WeakKeyDictionary()


@contextmanager
def applied(
    pipeline: Pipeline, concepts: Sequence[Concept], *, strengths: Sequence[float] | None = None
) -> Iterator[None]:
    """Shut the neurons of all concepts and say their words while the context is open (Sec. 3.2).

    ``pipeline`` is of the concepts' model, or of a fine-tune of it; LoRAs may be loaded.
    ``strengths`` are one per concept: 1 writes 0, smaller values shrink the weights; where masks
    overlap, one after the other.

    Raises:
        MaskError: Another base model, one identifier for two subjects, or a wrong number of
            strengths.
        ModelError: The pipeline is of another kind, or an identifier means something else in it.
        InterventionError: A strength is out of range, or another thread changes the model.
    """
    model = model_for(pipeline)
    amounts = [1.0] * len(concepts) if strengths is None else list(strengths)
    if len(amounts) != len(concepts):
        raise MaskError(
            f"found {len(amounts)} strengths; expected {len(concepts)}, one per concept; fit them"
        )
    opened = _OPEN.setdefault(model.module, [])
    base = opened[0][1] if opened else Fingerprint.of(model.weights(), model.name)
    for concept in concepts:
        concept.base.require(base)
    _require_told_apart([*(concept for concept, _ in opened), *concepts])
    words = {word.identifier: word.embeddings for concept in concepts for word in concept.words}
    live = projections(model.module, "both")
    with ExitStack() as stack:
        stack.enter_context(shut(model.module, Mask.empty({})))  # one thread at a time
        for concept, amount in zip(concepts, amounts, strict=True):
            named = Mask(
                {live.get(n, n): shape for n, shape in concept.mask.shapes.items()},
                {live.get(n, n): index for n, index in concept.mask.indices.items()},
            )
            stack.enter_context(shut(model.module, named, strength=float(amount)))
        stack.enter_context(spoken(pipeline, words))
        for concept in concepts:
            opened.append((concept, base))
            stack.callback(opened.remove, (concept, base))
        yield


def _require_told_apart(concepts: Sequence[Concept]) -> None:
    """Refuse one identifier for two subjects; a union shares the word of its part rightly."""
    found: dict[str, Word] = {}
    for word in (word for concept in concepts for word in concept.words):
        twin = found.setdefault(word.identifier, word)
        if twin is not word:  # even with one vector: subjects may start from the same word
            raise MaskError(
                f"found {word.identifier!r} twice, for a {twin.noun} and for another "
                f"{word.noun}; expected an identifier of its own for every concept; rename one "
                "with concept.renamed('V2*') and say that in the prompt"
            )
