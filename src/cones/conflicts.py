"""What two concepts will do to each other once they are joined, before anything is joined.

From the files alone: the neurons they share, beside chance in every layer, and how much of the
rows that one concept works in the other shuts in addition. With photos: the loss of each subject
with its own neurons shut, with those of both, and with its own and as many random ones. Whether
the first says anything about the second is measured by ``cones bench conflicts``.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cones.backbones import backbone_for
from cones.certificate import closed
from cones.concept import Concept
from cones.mask import ConceptMask
from cones.objective import ImplantingLoss, examples
from cones.stats import overlap, overlap_per_site
from cones.subject import Subject

PREDICTORS = ("rows", "columns", "layers")


def crowding(own: ConceptMask, other: ConceptMask) -> dict[str, float]:
    """Predict, from positions alone, how much ``other`` disturbs ``own`` when both are shut.

    A weight acts together with the others of its row, which add up to one number of a key or
    value. For every neuron of ``own`` this takes the share of its row that ``other`` shuts *in
    addition*, and averages over the neurons. What both shut is no disturbance: it is shut anyway.

    Returns:
        ``rows``; ``columns``, the same of the weights that read the same input; ``layers``, the
        same of whole layers, which is all that random neurons of equal number in every layer can
        do. Each in [0, 1]; 0 for an empty ``own``.

    Raises:
        MaskError: The masks are of different models.
    """
    added, sums = other - own, dict.fromkeys(PREDICTORS, 0.0)
    for name, shape in own.shapes.items():
        rows, columns = shape[0], math.prod(shape[1:])
        ours, theirs = own.indices[name], added.indices[name]
        sums["rows"] += _meeting(ours // columns, theirs // columns, rows) / columns
        sums["columns"] += _meeting(ours % columns, theirs % columns, columns) / rows
        sums["layers"] += len(ours) * len(theirs) / (rows * columns)
    return {name: total / max(len(own), 1) for name, total in sums.items()}


def _meeting(ours: Tensor, theirs: Tensor, places: int) -> int:
    """Count the pairs of one neuron each that lie in the same place."""
    first, second = (torch.bincount(each, minlength=places) for each in (ours, theirs))
    return int((first * second).sum())


def predicted(a: ConceptMask, b: ConceptMask) -> dict[str, Any]:
    """Report on two files: what they share beside chance, in all and by layer, and the crowding.

    Returns:
        What :func:`cones.stats.overlap` says; ``jaccard_by_chance``; ``sites``, both by layer;
        ``on_first`` and ``on_second``, the :func:`crowding` of each by the other.

    Raises:
        MaskError: The masks are of different models.
    """
    sites = {
        name: {key: row[key] for key in ("first", "second", "shared", "expected", "jaccard", "z")}
        | {"jaccard_by_chance": _by_chance(row)}
        for name, row in overlap_per_site(a, b).items()
    }
    found = overlap(a, b)
    return {
        **found,
        "jaccard_by_chance": _by_chance(found),
        "on_first": crowding(a, b),
        "on_second": crowding(b, a),
        "sites": sites,
    }


def _by_chance(found: Mapping[str, Any]) -> float:
    """Give the Jaccard index of the overlap expected of independent masks."""
    union = found["first"] + found["second"] - found["expected"]
    return found["expected"] / union if union else 0.0


def subject_loss(pipeline: Any, subject: Subject, concept: Concept) -> ImplantingLoss:
    """Prepare the loss of the photos alone (Eq. 2), with the words as the concept's file has them.

    Raises:
        BackboneError: The identifier means something else already.
    """
    backbone = backbone_for(pipeline)
    backbone.register(concept.identifier, embeddings=concept.embeddings or None)
    return ImplantingLoss(backbone, examples(backbone, subject, flip=True))


def measured(
    loss: ImplantingLoss,
    weights: Mapping[str, Tensor],
    own: ConceptMask,
    others: Mapping[str, ConceptMask],
    *,
    samples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what joining each of ``others`` does to a subject, on the same held-out samples.

    Args:
        loss: Of the subject, without prior.
        weights: The untouched weights, of the names of the masks.
        own: The subject's neurons.
        others: Those of other concepts, by name.
        samples: Held-out samples.
        seed: Of the samples, and of the random neurons: as many in every layer as the other's.

    Returns:
        Losses: ``untouched``, ``alone`` (own neurons shut), and by name ``union``, ``random``
        (own and random neurons shut), ``error`` (standard error of their difference) and
        ``union_error`` (of union less alone), both paired over samples.
    """

    def each(mask: ConceptMask) -> Float[Tensor, " n"]:
        return loss.parts(closed(weights, mask), samples=samples, seed=seed).subject

    alone, found = each(own), {}
    for name, other in others.items():
        draw = torch.Generator().manual_seed(seed + int(other.digest[:12], 16))
        union, random = each(own | other), each(own | other.random_like(draw))
        found[name] = {
            "union": float(union.mean()),
            "random": float(random.mean()),
            "error": _error(union - random),
            "union_error": _error(union - alone),
        }
    untouched = each(ConceptMask.empty(own.shapes))
    return {
        "untouched": float(untouched.mean()),
        "alone": float(alone.mean()),
        "with": found,
    }


def _error(change: Float[Tensor, " n"]) -> float:
    return float(change.std() / math.sqrt(len(change))) if len(change) > 1 else 0.0
