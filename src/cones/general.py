"""What several concepts have in common, to be taken out of one, or kept alone.

A neuron that most concepts of a noun hold is hardly one subject's own. ``held_by`` gives those
neurons as a mask, so that ``mine - held_by(others, 2)`` is a concept without them, and ``part_of``
draws the control: as many of a mask's own neurons in every layer. Whether a concept is better for
it is measured by ``cones bench algebra``.
"""

from collections.abc import Sequence
from functools import reduce

import torch

from cones.concept import Concept, named_apart, require_shut
from cones.errors import MaskError
from cones.mask import ConceptMask
from cones.stats import same_sites, times_held


def held_by(masks: Sequence[ConceptMask], at_least: int) -> ConceptMask:
    """Keep the neurons that ``at_least`` of the masks hold: 1 is their union.

    Raises:
        MaskError: There is no mask, they are of different models, or ``at_least`` is not in
            1 ... their number.
    """
    shapes = same_sites(masks).shapes
    if not 1 <= at_least <= len(masks):
        raise MaskError(
            f"found at_least {at_least} for {len(masks)} masks; expected 1 to {len(masks)}; "
            "change it or give more masks"
        )
    return ConceptMask(
        shapes,
        {n: (times_held(masks, n) >= at_least).nonzero().squeeze(1) for n in shapes},
    )


def part_of(mask: ConceptMask, like: ConceptMask, generator: torch.Generator) -> ConceptMask:
    """Draw a part of ``mask`` with as many neurons in every layer as ``like`` has.

    Raises:
        MaskError: The masks are of different models, or ``like`` has more somewhere.
    """
    same_sites((mask, like))
    drawn = {}
    for name, index in mask.indices.items():
        count = len(like.indices[name])
        if count > len(index):
            raise MaskError(
                f"found {count} neurons to draw among {len(index)} in {name!r}; expected at most "
                "as many; draw with a part of the mask"
            )
        order = torch.randperm(len(index), generator=generator)[:count]
        drawn[name] = index[order.sort().values]
    return ConceptMask(mask.shapes, drawn)


def common(concepts: Sequence[Concept], at_least: int | None = None) -> Concept:
    """Keep the neurons in use that ``at_least`` of several concepts hold (the general concept).

    The result has one level and no certificate, and names all members.

    Args:
        concepts: Two or more, found on one base model or a fine-tune of it.
        at_least: Of how many; None is more than half of them.

    Raises:
        MaskError: There are fewer than two, the base models differ, one identifier names two
            subjects, a concept has values of its own, or ``at_least`` is impossible.
    """
    if len(concepts) < 2:
        raise MaskError(f"found {len(concepts)} concepts; expected two or more; add others")
    require_shut(concepts)
    for other in concepts[1:]:
        concepts[0].require_base(other.base)
    count = len(concepts) // 2 + 1 if at_least is None else at_least
    parts = [
        {"mask": c.mask.digest, "density": c.mask.density, "settings": c.settings}
        for c in concepts
    ]
    return Concept(
        levels=(held_by([concept.mask for concept in concepts], count),),
        level=0,
        members=reduce(named_apart, [concept.members for concept in concepts]),
        base=concepts[0].base,
        settings={"combined": "common", "at_least": count, "parts": parts},
    )
