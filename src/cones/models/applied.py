"""Put concepts into a pipeline for a while: say their words, shut their neurons, undo both.

Contexts nest. All is checked before anything changes; on leaving, also by an exception, every bit
of the weights, the tokenizers and the embedding tables is as before.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from cones.concept import Concept, Word, told_apart, with_strengths
from cones.fingerprint import Fingerprint
from cones.intervention import shut
from cones.mask import Mask
from cones.models import model_for
from cones.models.base import Pipeline
from cones.models.words import spoken

# What is open now, by network: words, and the fingerprint of the untouched weights.
_OPEN: WeakKeyDictionary[nn.Module, list[tuple[list[Word], Fingerprint]]] = WeakKeyDictionary()


@contextmanager
def applied(
    pipeline: Pipeline, concepts: Sequence[Concept], *, strengths: Sequence[float] | None = None
) -> Iterator[None]:
    """Shut the neurons of all concepts and say their words while the context is open (Sec. 3.2).

    ``pipeline`` is of the concepts' model, or of a fine-tune of it; LoRAs may be loaded.
    ``strengths`` are one per concept: 1 writes 0, smaller values shrink the weights; where masks
    overlap, one after the other. One thread at a time.
    """
    model = model_for(pipeline)
    pairs = with_strengths(concepts, strengths)
    opened = _OPEN.setdefault(model.module, [])
    base = opened[0][1] if opened else Fingerprint.of(model.weights(), model.name)
    for concept in concepts:
        concept.base.require(base)
    said = [word for concept in concepts for word in concept.words]
    told_apart([*(word for words, _ in opened for word in words), *said])
    with ExitStack() as stack:
        stack.enter_context(shut(model.module, Mask.empty({})))  # one thread at a time
        for concept, amount in pairs:
            stack.enter_context(shut(model.module, concept.mask, strength=float(amount)))
        stack.enter_context(spoken(pipeline, {word.identifier: word.embeddings for word in said}))
        opened.append(entry := (said, base))
        stack.callback(opened.remove, entry)
        yield
