"""A concept: what can be stored, shared and put into another copy of the model.

It holds nested masks from sparse to dense (the last is in use), the words that name it with their
embeddings, the fingerprint of the base model, and how it was found. The file is
:mod:`cones.concept_file`; putting it into a pipeline is :mod:`cones.models`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from cones.errors import MaskError, SubjectError
from cones.fingerprint import Fingerprint
from cones.mask import Mask
from cones.subject import check_words, with_article

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Json: TypeAlias = Mapping[str, Any]  # a JSON object: what is in it is up to its writer
TOLERANCE = 0.05  # relative, of a density that is asked for


@dataclass(frozen=True, eq=False)
class Word:
    """One named subject of a concept.

    Attributes:
        identifier: The new word, such as ``V*``.
        noun: Its category, such as ``cat``.
        embeddings: The vectors of the identifier, by name of the text encoder; may be empty.

    Raises:
        SubjectError: A word cannot be used, or vectors are not finite floats.
    """

    identifier: str
    noun: str
    embeddings: Mapping[str, Float[Tensor, "vectors dim"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unusable words and vectors."""
        check_words(self.identifier, self.noun)
        for encoder, rows in self.embeddings.items():
            if rows.ndim != 2 or not rows.is_floating_point() or not bool(rows.isfinite().all()):
                raise SubjectError(
                    f"embeddings[{encoder!r}] of {self.identifier!r} are {rows.dtype} of shape "
                    f"{tuple(rows.shape)}, or not finite; expected finite floats (vectors, dim); "
                    "search again"
                )

    def same_as(self, other: "Word") -> bool:
        """Say whether words and vectors are equal."""
        if (self.identifier, self.noun) != (other.identifier, other.noun):
            return False
        return self.embeddings.keys() == other.embeddings.keys() and all(
            torch.equal(rows, other.embeddings[n]) for n, rows in self.embeddings.items()
        )


@dataclass(frozen=True, eq=False, repr=False)
class Concept:
    """The concept neurons of one subject or several, with all it takes to use them.

    ``a | b`` holds both subjects (Sec. 3.2), ``a & b`` what they share, ``a - b`` what only ``a``
    has. The result has one level and no certificate: what was measured on the parts does not hold
    for it.

    Attributes:
        levels: Nested masks over the same parameters, sparse to dense; the last is in use.
        words: The subjects, at least one, each with its own identifier.
        base: Fingerprint of the model it was found on.
        settings: How it was found. Values that JSON cannot hold become text, or None.
        certificate: What was measured on what the search never saw; likewise.

    Raises:
        MaskError: There is no level or word, levels are not nested, or two words share an
            identifier.
    """

    levels: tuple[Mask, ...]
    words: tuple[Word, ...]
    base: Fingerprint
    settings: Json = field(default_factory=dict)
    certificate: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be used, and make settings plain."""
        if not self.levels or not self.words:
            raise MaskError(
                f"found {len(self.levels)} levels and {len(self.words)} words; expected at least "
                "one of each; pass both"
            )
        for k in range(1, len(self.levels)):
            sparse, dense = self.levels[k - 1], self.levels[k]
            if sparse.shapes != dense.shapes or not sparse <= dense:
                raise MaskError(
                    f"level {k} lacks parameters or neurons of level {k - 1}; expected nested "
                    "levels, sparse to dense; order them by density"
                )
        object.__setattr__(self, "words", _told_apart(self.words))
        object.__setattr__(self, "settings", _plain(self.settings))
        object.__setattr__(self, "certificate", _plain(self.certificate))

    @property
    def mask(self) -> Mask:
        """The mask in use: the densest level."""
        return self.levels[-1]

    @property
    def density(self) -> float:
        """Share of the searched weights that are shut."""
        return self.mask.density

    @property
    def densities(self) -> tuple[float, ...]:
        """Density of every level, sparse to dense."""
        return tuple(mask.density for mask in self.levels)

    @property
    def identifier(self) -> str:
        """The identifier of the first word."""
        return self.words[0].identifier

    @property
    def noun(self) -> str:
        """The noun of the first word."""
        return self.words[0].noun

    @property
    def prompt(self) -> str:
        """Name every subject, such as ``a V* cat and a V2* dog``."""
        return " and ".join(with_article(f"{w.identifier} {w.noun}") for w in self.words)

    def at(self, density: float) -> "Concept":
        """Return this concept at its densest level not above ``density`` (up to 5 % of it).

        Raises:
            MaskError: ``density`` is below the sparsest level or above the densest.
        """
        stored = self.densities
        low, high = stored[0] * (1 - TOLERANCE), stored[-1] * (1 + TOLERANCE)
        if not low <= density <= high:
            raise MaskError(
                f"density is {density:.4%}; expected one of the levels that are stored: "
                f"{', '.join(f'{d:.4%}' for d in stored)}; choose one of these, or search again"
            )
        fitting = sum(d <= density * (1 + TOLERANCE) for d in stored)
        if fitting == len(stored):
            return self
        return replace(self, levels=self.levels[: max(fitting, 1)], certificate={})

    def using(self, mask: Mask) -> "Concept":
        """Return this concept with another mask, its only level, and no certificate."""
        return replace(self, levels=(mask,), certificate={})

    def renamed(self, identifier: str) -> "Concept":
        """Return this concept with another identifier for its first word."""
        first = replace(self.words[0], identifier=identifier)
        return replace(self, words=(first, *self.words[1:]))

    def save(self, path: str | Path) -> int:
        """Write a concept file, and return its size in bytes.

        An existing file is replaced whole or not at all. By custom the name ends in
        ``.safetensors``.

        Raises:
            FileError: The file could not be read back, for example settings nested too deep.
        """
        from cones.concept_file import save

        return save(self, path)

    def applied(
        self, pipeline: "DiffusionPipeline", *, strength: float = 1.0
    ) -> AbstractContextManager[None]:
        """Shut the neurons and register the words while the context is open.

        Works around any call of the pipeline. On leaving, every bit of the weights and the
        tokenizer is as before.

        Args:
            pipeline: A pipeline with the base model, or a fine-tune of it.
            strength: Amount of shutting: 1 writes 0, smaller values shrink the weights.
        """
        from cones.models.applied import applied

        return applied(pipeline, [self], strengths=[strength])

    def __or__(self, other: "Concept") -> "Concept":
        """Hold both subjects ("concatenation", Sec. 3.2).

        Raises:
            MaskError: The base models differ, or one identifier names two subjects.
        """
        return self._combined(other, "union", Mask.__or__, self.words + other.words)

    def __and__(self, other: "Concept") -> "Concept":
        """Keep the neurons that both subjects share (Fig. 4a); raises what ``a | b`` raises."""
        return self._combined(other, "intersection", Mask.__and__, self.words + other.words)

    def __sub__(self, other: "Concept") -> "Concept":
        """Keep the neurons and the words that only the first has."""
        return self._combined(other, "difference", Mask.__sub__, self.words)

    def __repr__(self) -> str:
        """Summarise in one line."""
        return f"Concept({self.prompt!r}, {self.mask!r}, found on {self.base.model!r})"

    def __str__(self) -> str:
        """Show words, density, base, settings and certificate, one a line."""
        levels = ", ".join(f"{d:.3%}" for d in self.densities)
        lines = [
            self.prompt,
            f"  neurons      {len(self.mask):,} of {self.mask.total:,} weights",
            f"  levels       {levels}",
            f"  base         {self.base.model}",
        ]
        for title, entries in (("settings", self.settings), ("certificate", self.certificate)):
            shown = [f"{key} {_shown(value)}" for key, value in entries.items()] or ["none"]
            lines += [f"  {title if not k else '':<12} {text}" for k, text in enumerate(shown)]
        return "\n".join(lines)

    def _combined(
        self,
        other: "Concept",
        how: str,
        operator: Callable[[Mask, Mask], Mask],
        words: tuple[Word, ...],
    ) -> "Concept":
        self.base.require(other.base)
        parts = [
            {"words": c.prompt, "density": c.density, "mask": c.mask.digest} for c in (self, other)
        ]
        return Concept(
            levels=(operator(self.mask, other.mask),),
            words=_told_apart(words),
            base=self.base,
            settings={"combined": how, "parts": parts},
        )


def _told_apart(words: tuple[Word, ...]) -> tuple[Word, ...]:
    """List every word once, or refuse one identifier for two subjects."""
    found: dict[str, Word] = {}
    for word in words:
        known = found.setdefault(word.identifier, word)
        if not known.same_as(word):
            what = f"another {word.noun}" if known.noun == word.noun else with_article(word.noun)
            raise MaskError(
                f"{word.identifier!r} names {with_article(known.noun)} and {what}; expected one "
                "identifier per subject; rename one with concept.renamed('V2*')"
            )
    return tuple(found.values())


def _plain(value: object) -> Any:  # noqa: ANN401 - any of the types of JSON
    """Turn a value into what JSON, and a terminal, can hold."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor) or type(value).__module__ == "numpy":
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def _shown(value: object) -> str:
    """Show a JSON value in one line, numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
