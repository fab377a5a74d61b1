"""Give a subject a word of its own in every tokenizer of a pipeline.

``V*`` becomes one token whose embedding starts as a copy of a rare word's. Without this the
tokenizer cuts it into ordinary pieces, and the prompt says something else. The embedding is not
trained here; it travels in the concept file so that the word means the same everywhere.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cones.errors import BackboneError

RARE_WORDS = ("sks", "ktn", "pll", "ucd", "wnv")
_LEGACY_EOS = 2
Embeddings = Mapping[str, Float[Tensor, "vectors dim"]]


def encoders(pipeline: Any) -> dict[str, tuple[Any, nn.Module]]:
    """Pair every text encoder of ``pipeline`` with its tokenizer, by the encoder's name."""
    pairs = {}
    for suffix in ("", "_2"):
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        if encoder is not None:
            tokenizer = getattr(pipeline, f"tokenizer{suffix}")
            pairs[f"text_encoder{suffix}"] = (tokenizer, encoder)
    return pairs


def register(
    pipeline: Any,
    identifier: str,
    *,
    rare: str | None = None,
    embeddings: Embeddings | None = None,
) -> dict[str, Float[Tensor, "vectors dim"]]:
    """Make ``identifier`` one token of every tokenizer and return its embeddings.

    Args:
        pipeline: Changed in place: its tokenizers and text encoders grow.
        identifier: The new word. Registering it again returns what is there.
        rare: Word whose embedding is copied. By default a rare word; the number in an
            identifier picks it (``V2*`` takes the second), so that subjects searched apart do
            not share one.
        embeddings: Rows by encoder name, as a concept file holds them, in place of ``rare``.

    Raises:
        BackboneError: The word cannot be used, or means something else already. Nothing has
            been changed in that case.
    """
    pairs = encoders(pipeline)
    _require_word(identifier)
    if embeddings is not None:
        _require_rows(embeddings, pairs)
    present = {name: _present(*pair, identifier) for name, pair in pairs.items()}
    if all(rows is not None for rows in present.values()):
        _require_same(identifier, present, embeddings)
        return present
    rows = {
        name: _copied(*pair, identifier, rare) if embeddings is None else embeddings[name]
        for name, pair in pairs.items()
        if present[name] is None
    }
    for name, values in rows.items():
        _add(*pairs[name], identifier, values)
    return {name: _present(*pair, identifier) for name, pair in pairs.items()}


def _require_word(identifier: str) -> None:
    if identifier.split() != [identifier] or re.search(r"_\d+$", identifier):
        raise BackboneError(
            f"found identifier {identifier!r}; expected one word without spaces that does not "
            "end in '_' and a number (such words name further vectors); use for example 'V*'"
        )


def _require_rows(embeddings: Embeddings, pairs: Mapping[str, tuple[Any, nn.Module]]) -> None:
    expected = {name: pair[1].get_input_embeddings().embedding_dim for name, pair in pairs.items()}
    found = {name: rows.shape[-1] for name, rows in embeddings.items()}
    if found != expected or any(rows.ndim != 2 or not len(rows) for rows in embeddings.values()):
        shapes = {name: tuple(rows.shape) for name, rows in embeddings.items()}
        raise BackboneError(
            f"found embeddings {shapes}; expected rows of width {expected}; "
            "load the model this concept was found on"
        )


def _require_same(
    identifier: str, present: Mapping[str, Tensor], embeddings: Embeddings | None
) -> None:
    if embeddings is None:
        return
    for name, rows in present.items():
        given = embeddings[name].to(rows)
        if given.shape != rows.shape or not torch.equal(given, rows):
            raise BackboneError(
                f"found that {identifier!r} already means something else to {name}; expected a "
                "new word; give this concept another identifier"
            )


def _tokens(tokenizer: Any, identifier: str) -> Iterator[int]:
    """Walk the ids of ``V*``, ``V*_1``, ``V*_2`` (diffusers' names of further vectors)."""
    added = tokenizer.get_added_vocab()
    if identifier in added:
        yield added[identifier]
    else:
        pieces = tokenizer(identifier, add_special_tokens=False).input_ids
        if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id:
            yield pieces[0]
        return
    number = 1
    while f"{identifier}_{number}" in added:
        yield added[f"{identifier}_{number}"]
        number += 1


def _present(tokenizer: Any, encoder: nn.Module, identifier: str) -> Tensor | None:
    ids = list(_tokens(tokenizer, identifier))
    table = encoder.get_input_embeddings().weight
    if not ids or max(ids) >= len(table):
        return None
    return table.data[ids].clone()


def _copied(tokenizer: Any, encoder: nn.Module, identifier: str, rare: str | None) -> Tensor:
    table = encoder.get_input_embeddings().weight.data
    if rare is not None:
        found = _single(tokenizer, rare)
        if found is None:
            raise BackboneError(
                f"found that {rare!r} is not one token of this model; expected a word that is, "
                f"such as {RARE_WORDS[0]!r}; choose another or leave it out"
            )
        return table[found : found + 1].clone()
    special = set(tokenizer.all_special_ids)
    added = set(tokenizer.get_added_vocab().values()) - special
    taken = table[sorted(i for i in added if i < len(table))]
    candidates = list(_rare_ids(tokenizer, special | added))
    start = (int((re.findall(r"\d+", identifier) or ["1"])[0]) - 1) % max(len(candidates), 1)
    for index in candidates[start:] + candidates[:start]:
        if not bool((taken == table[index]).all(-1).any()):
            return table[index : index + 1].clone()
    raise BackboneError("found no unused word in the vocabulary; expected one to copy; pass rare=")


def _rare_ids(tokenizer: Any, excluded: set[int]) -> Iterator[int]:
    """List rare words first, then the vocabulary from its last, rarest entry."""
    words = [_single(tokenizer, word) for word in RARE_WORDS]
    known = [index for index in words if index is not None and index not in excluded]
    yield from known
    others = sorted(set(tokenizer.get_vocab().values()) - excluded - set(known), reverse=True)
    yield from others


def _single(tokenizer: Any, word: str) -> int | None:
    pieces = tokenizer(word, add_special_tokens=False).input_ids
    if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id:
        return pieces[0]
    # Some rare entries, such as CLIP's 'ktn', are pieces that no text is cut into.
    index = tokenizer.get_vocab().get(word)
    return None if index == tokenizer.unk_token_id else index


def _add(tokenizer: Any, encoder: nn.Module, identifier: str, rows: Tensor) -> None:
    from tokenizers import AddedToken

    words = [identifier, *(f"{identifier}_{number}" for number in range(1, len(rows)))]
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    added = tokenizer.get_added_vocab()
    ids = [added[word] for word in words]
    if max(ids) >= len(encoder.get_input_embeddings().weight):
        with torch.random.fork_rng(devices=[]):  # the rows drawn here are overwritten below
            encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    encoder.config.vocab_size = len(table)
    with torch.no_grad():
        table[ids] = rows.to(table)
    _mark_end(tokenizer, encoder)


def _mark_end(tokenizer: Any, encoder: nn.Module) -> None:
    """Say where a text ends: old CLIP files take the largest id, which is now the new word."""
    for owner in (encoder.config, *encoder.modules()):
        if getattr(owner, "eos_token_id", None) == _LEGACY_EOS:
            owner.eos_token_id = tokenizer.eos_token_id
