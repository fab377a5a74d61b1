"""A concept that can be stored, shared and put into another copy of the model.

It holds the masks (one, or several nested ones from sparse to dense, so that sparsity is chosen
later), values for the neurons if they are not to be shut, the words that name it with their
embeddings, what it takes to recognise the base model, and how it was found. One file of this kind
is a safetensors file without code; FORMAT.md describes every byte. :mod:`cones.concept_file` reads
and writes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cones.base_check import BaseCheck, Verdict
from cones.errors import MaskError
from cones.intervention import Intervention
from cones.mask import ConceptMask
from cones.precision import Values


@dataclass(frozen=True, eq=False)
class Member:
    """One named subject of a concept.

    Attributes:
        identifier: The new word, e.g. ``V*``.
        noun: Its category, e.g. ``cat``.
        embeddings: The vectors of the identifier, by text encoder.
    """

    identifier: str
    noun: str
    embeddings: Mapping[str, Float[Tensor, "vectors dim"]] = field(default_factory=dict)

    def same_as(self, other: "Member") -> bool:
        """Compare words and vectors."""
        if (self.identifier, self.noun) != (other.identifier, other.noun):
            return False
        return self.embeddings.keys() == other.embeddings.keys() and all(
            e.equal(other.embeddings[n]) for n, e in self.embeddings.items()
        )


@dataclass(frozen=True, eq=False)
class Concept:
    """The concept neurons of one subject or several, with all it takes to use them.

    Attributes:
        levels: Nested masks, each within the next.
        level: Which of them is in use.
        members: The subjects, at least one.
        base: What recognises the model it was found on.
        settings: How it was found; plain JSON values (others become text, non-finite None).
        certificate: What was measured on held-out draws; likewise.
        values: What to write at the neurons of the only level; None shuts them.

    Raises:
        MaskError: Levels are not nested, or there is no level, no member or no such level; or
            there are values and several levels.
        InterventionError: The values do not match the mask.
    """

    levels: tuple[ConceptMask, ...]
    level: int
    members: tuple[Member, ...]
    base: BaseCheck
    settings: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    values: Values | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be used, and make settings plain."""
        if not 0 <= self.level < len(self.levels) or not self.members:
            raise MaskError(
                f"level {self.level} of {len(self.levels)} and {len(self.members)} members; "
                "expected an existing level and at least one member; pass both"
            )
        for k in range(1, len(self.levels)):
            if not self.levels[k - 1] <= self.levels[k]:
                raise MaskError(
                    f"level {k} lacks neurons of level {k - 1}; expected nested levels, sparse "
                    "to dense; build them with cones.search.nested"
                )
        if self.values is not None and len(self.levels) > 1:
            raise MaskError(
                f"found values for {len(self.levels)} levels; expected one level, whose neurons "
                "they are; use Concept.valued"
            )
        self.intervention()  # refuses values that do not match the mask
        object.__setattr__(self, "settings", _plain(self.settings))
        object.__setattr__(self, "certificate", _plain(self.certificate))

    @property
    def mask(self) -> ConceptMask:
        """The mask in use."""
        return self.levels[self.level]

    @property
    def densities(self) -> tuple[float, ...]:
        """Density of every level."""
        return tuple(mask.density for mask in self.levels)

    @property
    def identifier(self) -> str:
        """The identifier of the first member."""
        return self.members[0].identifier

    @property
    def noun(self) -> str:
        """The noun of the first member."""
        return self.members[0].noun

    @property
    def embeddings(self) -> Mapping[str, Float[Tensor, "vectors dim"]]:
        """The embeddings of the first member."""
        return self.members[0].embeddings

    def at(self, density: float) -> "Concept":
        """Return this concept at its densest level not above ``density``, or its sparsest."""
        below = sum(d <= density * (1 + 1e-9) for d in self.densities)
        return replace(self, level=max(below - 1, 0))

    def using(self, mask: ConceptMask) -> "Concept":
        """Return this concept with another mask, its only level, shut: for controls."""
        return replace(self, levels=(mask,), level=0, values=None)

    def valued(self, values: Values) -> "Concept":
        """Return this concept with values at its mask in use (Fig. 3), and no certificate.

        Raises:
            InterventionError: The values do not match the mask.
        """
        return replace(self, levels=(self.mask,), level=0, values=values, certificate={})

    def intervention(self, strength: float = 1.0) -> Intervention:
        """Say what is to be written: its values, or zeros."""
        numbers = None if self.values is None else self.values.numbers
        return Intervention(self.mask, numbers, strength)

    def renamed(self, identifier: str) -> "Concept":
        """Return this concept with another word for its first member."""
        first = replace(self.members[0], identifier=identifier)
        return replace(self, members=(first, *self.members[1:]))

    def require_base(self, found: BaseCheck) -> Verdict:
        """Say what a model is to this concept: ``"same"`` or ``"fine-tune"``.

        Raises:
            MaskError: The model has another layout, or its weights are unrelated.
        """
        verdict = self.base.compare(found)
        if verdict in ("same", "fine-tune"):
            return verdict
        why = "has other searched weights than"
        if verdict == "unrelated":
            why = f"shares {self.base.agreement(found):.0%} of signs, as by chance, with"
        raise MaskError(
            f"the model {found.model!r} {why} {self.base.model!r}, where this concept was found; "
            f"expected that model or a fine-tune of it; load {self.base.model!r}"
        )


def require_base(concept: Concept, found: BaseCheck) -> Verdict:
    """Do what :meth:`Concept.require_base` does."""
    return concept.require_base(found)


def require_shut(concepts: Sequence[Concept]) -> None:
    """Refuse concepts with values where only positions can be joined.

    Raises:
        MaskError: One has values.
    """
    for concept in concepts:
        if concept.values is not None:
            raise MaskError(
                f"found {concept.values.precision} values for {concept.identifier!r}; expected "
                "concepts whose neurons are shut, as values of several do not add up; use it alone"
            )


def combine(a: Concept, b: Concept, how: str = "union") -> Concept:
    """Combine the masks in use (Sec. 3.2): ``a | b``, ``a & b`` or ``a - b``.

    The result has one level and no certificate: what was measured of the parts does not hold for
    it. A difference names only the members of ``a``.

    Args:
        a: A concept.
        b: A concept found on the same base model or a fine-tune of it.
        how: ``"union"``, ``"intersection"`` or ``"difference"``.

    Raises:
        MaskError: The base models differ, one identifier names two subjects, or ``how`` is
            unknown, or a concept has values of its own.
    """
    operators = {
        "union": ConceptMask.__or__,
        "intersection": ConceptMask.__and__,
        "difference": ConceptMask.__sub__,
    }
    if how not in operators:
        raise MaskError(f"how is {how!r}, expected one of {sorted(operators)}; choose one")
    require_shut((a, b))
    a.require_base(b.base)
    members = a.members if how == "difference" else named_apart(a.members, b.members)
    parts = [
        {"mask": c.mask.digest, "density": c.mask.density, "settings": c.settings} for c in (a, b)
    ]
    return Concept(
        levels=(operators[how](a.mask, b.mask),),
        level=0,
        members=members,
        base=a.base,
        settings={"combined": how, "parts": parts},
    )


def named_apart(first: tuple[Member, ...], second: tuple[Member, ...]) -> tuple[Member, ...]:
    """List the members of both, once each.

    Raises:
        MaskError: One identifier names two subjects.
    """
    members = {member.identifier: member for member in first}
    for member in second:
        known = members.setdefault(member.identifier, member)
        if not known.same_as(member):
            raise MaskError(
                f"{member.identifier!r} names a {known.noun} in one and a {member.noun} in the "
                "other; expected one word per subject; rename one with .renamed('U*')"
            )
    return tuple(members.values())


def _plain(value: Any) -> Any:
    """Turn a value into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
