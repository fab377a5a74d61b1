"""Put concepts into a pipeline for a while: say their words, shut their neurons, undo both.

Contexts nest. All is checked before anything changes; on leaving, also by an exception, every bit
of the weights, the tokenizers and the embedding tables is as before.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from cones.concept import Concept, Word, told_apart
from cones.errors import MaskError
from cones.fingerprint import Fingerprint
from cones.intervention import shut
from cones.mask import Mask
from cones.models import model_for
from cones.models.protocol import Pipeline
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
    said = [word for concept in concepts for word in concept.words]
    told_apart([*(word for words, _ in opened for word in words), *said])
    with ExitStack() as stack:
        stack.enter_context(shut(model.module, Mask.empty({})))  # one thread at a time
        for concept, amount in zip(concepts, amounts, strict=True):
            stack.enter_context(shut(model.module, concept.mask, strength=float(amount)))
        stack.enter_context(spoken(pipeline, {word.identifier: word.embeddings for word in said}))
        opened.append(entry := (said, base))
        stack.callback(opened.remove, entry)
        yield
