"""A concept: what can be stored, shared and put into another copy of the model.

It holds nested masks from sparse to dense (the last is in use), the words that name it with their
embeddings, the fingerprint of the base model, and how it was found. The file is
:mod:`cones.concept_file`; putting it into a pipeline is :mod:`cones.models`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from cones.errors import MaskError, SubjectError
from cones.files import write_atomic
from cones.fingerprint import Fingerprint
from cones.mask import Mask
from cones.subject import check_words, with_article

Json: TypeAlias = Mapping[str, Any]  # a JSON object: what is in it is up to its writer
STORED = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = 1.05  # factor, of a density that is asked for


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
    embeddings: Mapping[str, Float[Tensor, "_ _"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unusable words and vectors."""
        check_words(self.identifier, self.noun)
        for encoder, rows in self.embeddings.items():
            if rows.ndim != 2 or rows.dtype not in STORED or not bool(rows.isfinite().all()):
                raise SubjectError(
                    f"embeddings[{encoder!r}] of {self.identifier!r} are {rows.dtype} of shape "
                    f"{tuple(rows.shape)}, or not finite; expected (vectors, dim) in float32, "
                    "float16 or bfloat16; search again"
                )


@dataclass(frozen=True, eq=False, repr=False)
class Concept:
    """The concept neurons of one subject or several, with all it takes to use them.

    ``a | b`` holds both subjects (Sec. 3.2), ``a & b`` what they share (Fig. 4a), ``a - b`` what
    only ``a`` has, with the words of ``a``. The result has one level and no certificate: what was
    measured on the parts does not hold for it. They raise :class:`~cones.errors.MaskError` where
    the base models differ, or one identifier names two subjects.

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
        for k, (sparse, dense) in enumerate(zip(self.levels, self.levels[1:], strict=False)):
            if sparse.shapes != dense.shapes or not sparse <= dense:
                raise MaskError(
                    f"level {k + 1} lacks parameters or neurons of level {k}; expected nested "
                    "levels, sparse to dense; order them by density"
                )
        object.__setattr__(self, "words", told_apart(self.words))
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
    def prompt(self) -> str:
        """Name every subject, such as ``a V* cat and a V2* dog``."""
        return " and ".join(with_article(f"{w.identifier} {w.noun}") for w in self.words)

    def at(self, density: float) -> "Concept":
        """Return this concept at its densest level not above ``density`` (by more than 5 %).

        Raises:
            MaskError: ``density`` is below the sparsest level or above the densest.
        """
        fitting = [mask for mask in self.levels if mask.density <= density * TOLERANCE]
        if not fitting or density > self.density * TOLERANCE:
            stored = ", ".join(f"{d:.4%}" for d in self.densities)
            raise MaskError(
                f"density is {density:.4%}; expected one that is stored: {stored}; choose one of "
                "these, or search again"
            )
        unchanged = len(fitting) == len(self.levels)
        return self if unchanged else replace(self, levels=tuple(fitting), certificate={})

    def using(self, mask: Mask) -> "Concept":
        """Return this concept with another mask, its only level, and no certificate."""
        return replace(self, levels=(mask,), certificate={})

    def renamed(self, identifier: str) -> "Concept":
        """Return this concept with another identifier for its first word."""
        first = replace(self.words[0], identifier=identifier)
        return replace(self, words=(first, *self.words[1:]))

    def save(self, path: str | Path) -> int:
        """Write a concept file whole or not at all, and return its size in bytes.

        Raises:
            FileError: The file could not be read back, for example settings nested too deep.
        """
        from cones.concept_file import dumps

        data = dumps(self)
        write_atomic(Path(path), data)
        return len(data)

    def applied(self, pipeline: object, *, strength: float = 1.0) -> AbstractContextManager[None]:
        """Shut the neurons and register the words while the context is open.

        Works around any call of the pipeline. On leaving, every bit of the weights and the
        tokenizer is as before. ``strength`` is the amount of shutting: 1 writes 0, smaller values
        shrink the weights.
        """
        from cones.models.applied import applied

        return applied(pipeline, [self], strengths=[strength])

    def __or__(self, other: "Concept") -> "Concept":
        """Hold both subjects ("concatenation", Sec. 3.2)."""
        words = self.words + other.words
        return self._combined(other, "union", self.mask | other.mask, words)

    def __and__(self, other: "Concept") -> "Concept":
        """Keep the neurons that both subjects share (Fig. 4a)."""
        words = self.words + other.words
        return self._combined(other, "intersection", self.mask & other.mask, words)

    def __sub__(self, other: "Concept") -> "Concept":
        """Keep the neurons that only the first has."""
        return self._combined(other, "difference", self.mask - other.mask, self.words)

    def __repr__(self) -> str:
        """Summarise in one line."""
        return f"Concept({self.prompt!r}, {self.mask!r}, found on {self.base.model!r})"

    def __str__(self) -> str:
        """Show words, density, base, settings and certificate, one a line."""
        about = {
            "neurons": f"{len(self.mask):,} of {self.mask.total:,} weights",
            "levels": ", ".join(f"{density:.3%}" for density in self.densities),
            "base": self.base.model,
        }
        blocks = {"settings:": self.settings, "certificate:": self.certificate}
        lines = []
        for title, entries in {self.prompt: about, **blocks}.items():
            lines += [title] if entries else []
            lines += [f"  {key:<16} {_shown(value)}" for key, value in entries.items()]
        return "\n".join(lines)

    def _combined(
        self, other: "Concept", how: str, mask: Mask, words: tuple[Word, ...]
    ) -> "Concept":
        self.base.require(other.base)
        parts = [{"words": c.prompt, "mask": c.mask.digest} for c in (self, other)]
        return Concept((mask,), words, self.base, {"combined": how, "parts": parts})


def with_strengths(
    concepts: Concept | Iterable[Concept], strengths: Sequence[float] | None
) -> list[tuple[Concept, float]]:
    """Pair each concept with how far it is shut, 1 by default; a MaskError if they do not fit."""
    found = [concepts] if isinstance(concepts, Concept) else list(concepts)
    amounts = [1.0] * len(found) if strengths is None else list(strengths)
    if len(amounts) != len(found):
        raise MaskError(
            f"found {len(amounts)} strengths; expected {len(found)}, one per concept; fit them"
        )
    return list(zip(found, amounts, strict=True))


def told_apart(words: Iterable[Word]) -> tuple[Word, ...]:
    """List every word once; a union shares the word of its part.

    One identifier for two subjects is a MaskError, even with one vector: both may start from the
    same word.
    """
    found: dict[str, Word] = {}
    for word in words:
        twin = found.setdefault(word.identifier, word)
        if twin is not word:
            raise MaskError(
                f"found {word.identifier!r} twice, for {with_article(twin.noun)} and for another "
                f"{word.noun}; expected an identifier of its own for every subject; rename one "
                "with concept.renamed('V2*') and say that in the prompt"
            )
    return tuple(found.values())


def _plain(entries: Json) -> Json:
    """Turn values into what JSON can hold: NaN and infinity become None, objects text."""
    text = json.dumps(dict(entries), default=lambda v: getattr(v, "tolist", v.__str__)())
    return json.loads(text, parse_constant=lambda _: None)


def _shown(value: object) -> str:
    """Show a JSON value in one line, numbers to four digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return f"[{', '.join(_shown(item) for item in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
