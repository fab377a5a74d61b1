"""Give a subject a word of its own in every tokenizer of a pipeline, for a while or for good.

``V*`` becomes one token, whose vectors start as a copy of a rare word's and travel in the concept
file. For a while means: a hook puts the vectors in, the embedding tables are never written to,
and the tokenizers are put back as they were.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from cones.errors import ModelError
from cones.models.protocol import Model, Pipeline

RARE_WORDS = ("sks", "ktn", "pll", "ucd", "wnv")
Rows = Float[Tensor, "vectors dim"]
_NAME = re.compile(r"([bdfgklmnprstvz][aeiou]){2}[bdfgklmnprstvz]</w>")  # of the built-in model
Pair = tuple[PreTrainedTokenizerBase, nn.Module]
_LEGACY_EOS = 2
_UNLIMITED = 10**6  # a tokenizer without files says it reads far more tokens than this


def encoders(pipeline: Pipeline) -> dict[str, Pair]:
    """Pair every text encoder of ``pipeline`` with its tokenizer, by the encoder's name.

    Raises:
        ModelError: A tokenizer is missing or empty.
    """
    pairs = {}
    for suffix in ("", "_2"):
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        tokenizer = getattr(pipeline, f"tokenizer{suffix}", None)
        if encoder is None:
            continue
        if tokenizer is None or tokenizer.model_max_length > _UNLIMITED:
            raise ModelError(
                f"found no vocabulary for tokenizer{suffix}; expected the files of a tokenizer "
                f"(tokenizer.json) in the model's folder 'tokenizer{suffix}'; copy them there "
                "from the model that this one was made from"
            )
        pairs[f"text_encoder{suffix}"] = (tokenizer, encoder)
    return pairs


def vectors(pipeline: Pipeline, word: str) -> dict[str, Rows]:
    """Copy the vectors of a word from every text encoder; nothing changes.

    Raises:
        ModelError: The word is not one token.
    """
    found = {name: _present(*pair, word) for name, pair in encoders(pipeline).items()}
    if any(rows is None for rows in found.values()):
        raise ModelError(
            f"found that {word!r} is not one token of this model; expected a word that is, such "
            f"as {candidates(pipeline)[0]!r}; choose another"
        )
    return {name: rows for name, rows in found.items() if rows is not None}


@contextmanager
def spoken(pipeline: Pipeline, words: Mapping[str, Mapping[str, Rows]]) -> Iterator[None]:
    """Let the pipeline know ``words`` while the context is open; contexts nest.

    Embedding tables and vocabulary sizes stay as they are; the tokenizers are bit for bit as
    before on leaving.

    Args:
        pipeline: Whose text encoders read the words.
        words: Word -> text encoder's name -> its vectors, on any device.

    Raises:
        ModelError: A word cannot be used or means something else already, or its vectors are
            of another model. Nothing has been changed in that case.
    """
    pairs = encoders(pipeline)
    with ExitStack() as stack:
        if words:
            stack.enter_context(kept(pipeline))
        new = {word: rows for word, rows in words.items() if not _known(pairs, word, rows)}
        for name, (tokenizer, encoder) in pairs.items():
            rows: dict[int, Tensor] = {}
            for word, each in new.items():
                rows |= zip(_add(tokenizer, word, len(each[name])), each[name], strict=True)
            if rows:
                _mark_end(tokenizer, encoder)
                table, replaced = encoder.get_input_embeddings(), _Replaced(rows)
                stack.callback(table.register_forward_pre_hook(replaced.before).remove)
                stack.callback(table.register_forward_hook(replaced.after).remove)
        yield


def register(
    pipeline: Pipeline,
    identifier: str,
    *,
    like: str | None = None,
    embeddings: Mapping[str, Rows] | None = None,
) -> dict[str, Rows]:
    """Make ``identifier`` one token for good and return its vectors.

    The tokenizers and text encoders of ``pipeline`` grow in place. The vectors are
    ``embeddings``, as a concept holds them, or a copy of those of the word ``like`` (one of
    :func:`candidates`).

    Raises:
        ModelError: The word cannot be used, or means something else already. Nothing has been
            changed in that case.
    """
    pairs = encoders(pipeline)
    if embeddings is None:
        known = all(_present(*pair, identifier) is not None for pair in pairs.values())
        like = identifier if known else like or nth(candidates(pipeline), identifier)
        embeddings = vectors(pipeline, like)
    if not _known(pairs, identifier, embeddings):
        for name, (tokenizer, encoder) in pairs.items():
            rows = embeddings[name]
            _write(encoder, _add(tokenizer, identifier, len(rows)), rows)
            _mark_end(tokenizer, encoder)
    return vectors(pipeline, identifier)


@contextmanager
def kept(pipeline: Pipeline) -> Iterator[None]:
    """Put tokenizers, embedding tables and ends of text back on leaving, bit for bit."""
    pairs = encoders(pipeline).values()
    states = [(tokenizer, dict(vars(tokenizer))) for tokenizer, _ in pairs]
    tables = [(e, e.get_input_embeddings(), e.config.vocab_size) for _, e in pairs]
    ends = [(owner, owner.eos_token_id) for _, e in pairs for owner in _enders(e)]
    try:
        for tokenizer, state in states:
            vars(tokenizer).update(copy.deepcopy(state))
        yield
    finally:
        for tokenizer, state in states:
            vars(tokenizer).clear()
            vars(tokenizer).update(state)
        for encoder, table, size in tables:
            encoder.set_input_embeddings(table)
            encoder.config.vocab_size = size
        for owner, end in ends:
            owner.eos_token_id = end


def candidates(pipeline: Pipeline) -> tuple[str, ...]:
    """List words that V* can start from: rare ones, or the names that the built-in model knows.

    Raises:
        ModelError: The vocabulary has neither.
    """
    tokenizer, _ = encoders(pipeline)["text_encoder"]
    rare = [word for word in RARE_WORDS if _single(tokenizer, word) is not None]
    names = sorted(entry for entry in tokenizer.get_vocab() if _NAME.fullmatch(entry))
    if not (rare or names):
        raise ModelError(
            f"found none of {', '.join(RARE_WORDS)} in the vocabulary; expected a rare word for "
            "the identifier to start from; name one with like="
        )
    return tuple(rare) or tuple(name.removesuffix("</w>") for name in names)


def nth(words: Sequence[str], identifier: str) -> str:
    """Pick by the number in an identifier, so that subjects differ: ``V2*`` takes the second."""
    number = int((re.findall(r"\d+", identifier) or ["1"])[0])
    return words[(number - 1) % len(words)]


def choose_start(model: Model, noun: str, *, identifier: str = "V*") -> tuple[str, float]:
    """Choose the word that V* starts from: the candidate that the model hears best.

    Returns:
        The word (``V2*`` gets the second best) and its :func:`response`.
    """
    words = candidates(model.pipeline)
    heard = {word: response(model, f"a {word} {noun}", f"a {noun}") for word in words}
    word = nth(sorted(words, key=lambda word: -heard[word]), identifier)
    return word, heard[word]


@torch.no_grad()
def response(model: Model, said: str, unsaid: str, *, count: int = 4) -> float:
    """Measure how far ``said`` moves the prediction from that of ``unsaid``, relative to it.

    Below .05 a model hardly hears a word; a colour moves it by .1 to .3.
    """
    draw = torch.Generator().manual_seed(0)
    noised = torch.randn(count, *model.latent_shape, generator=draw)
    times = model.timesteps(count, draw)
    heard, before = (
        model.predict({}, noised, times, model.condition([prompt] * count))
        for prompt in (said, unsaid)
    )
    return float((heard - before).norm() / before.norm())


class _Replaced:
    """Hooks on an embedding table that give some tokens vectors of their own."""

    def __init__(self, rows: Mapping[int, Tensor]) -> None:
        self.rows = rows
        self.ids = torch.empty(0)

    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hide the tokens, which lie outside the table."""
        self.ids, *others = inputs
        new = torch.isin(self.ids, torch.tensor(list(self.rows), device=self.ids.device))
        return (self.ids.masked_fill(new, 0), *others)

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Put their vectors in."""
        for token, row in self.rows.items():
            output = torch.where((self.ids == token)[..., None], row.to(output), output)
        return output


def _known(pairs: Mapping[str, Pair], word: str, rows: Mapping[str, Rows]) -> bool:
    """Tell whether the pipeline says ``word`` with these vectors; refuse other ones."""
    if word.split() != [word] or re.search(r"_\d+$", word):
        raise ModelError(
            f"found identifier {word!r}; expected one word without spaces that does not end in "
            "'_' and a number (such words name further vectors); use for example 'V*'"
        )
    expected = {name: pair[1].get_input_embeddings().embedding_dim for name, pair in pairs.items()}
    found = {name: each.shape[-1] for name, each in rows.items() if len(each)}
    if found != expected:
        raise ModelError(
            f"found vectors of width {found} for {word!r}; expected {expected}; load the model "
            "this concept was found on"
        )
    present = {name: _present(*pair, word) for name, pair in pairs.items()}
    for name, each in present.items():
        if each is not None and not torch.equal(rows[name].to(each), each):
            raise ModelError(
                f"found that {word!r} already means something else to {name}; expected a new "
                "word; rename this concept: concept.renamed('V2*')"
            )
    return all(each is not None for each in present.values())


def _present(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module, word: str) -> Rows | None:
    """Read a word's vectors as the encoder reads them, hooks included; None if it has none."""
    added, number = tokenizer.get_added_vocab(), 1
    ids = [added[word] if word in added else _single(tokenizer, word)]
    while word in added and f"{word}_{number}" in added:
        ids.append(added[f"{word}_{number}"])
        number += 1
    table = encoder.get_input_embeddings()
    if ids == [None]:
        return None
    with torch.no_grad():
        return table(torch.tensor(ids, device=table.weight.device)).clone()


def _single(tokenizer: PreTrainedTokenizerBase, word: str) -> int | None:
    pieces = tokenizer(word, add_special_tokens=False).input_ids
    if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id:
        return pieces[0]
    # Some rare entries, such as CLIP's 'ktn', are pieces that no text is cut into.
    index = tokenizer.get_vocab().get(word)
    return None if index == tokenizer.unk_token_id else index


def _add(tokenizer: PreTrainedTokenizerBase, word: str, count: int) -> list[int]:
    """Add a word of ``count`` vectors, by diffusers' names: ``V*``, ``V*_1``, ``V*_2``."""
    said = [word, *(f"{word}_{number}" for number in range(1, count))]
    tokenizer.add_tokens([AddedToken(each, single_word=True, normalized=False) for each in said])
    added = tokenizer.get_added_vocab()
    return [added[each] for each in said]


def _write(encoder: nn.Module, ids: Sequence[int], rows: Rows) -> None:
    """Give the encoder a table that also holds ``rows``; the old table is not written to."""
    old = encoder.get_input_embeddings()
    longer = old.weight.new_zeros(max(*ids, len(old.weight) - 1) + 1, old.weight.shape[1])
    longer[: len(old.weight)] = old.weight.detach()
    longer[ids] = rows.to(longer)
    encoder.set_input_embeddings(
        nn.Embedding.from_pretrained(longer, not old.weight.requires_grad, old.padding_idx)
    )
    encoder.config.vocab_size = len(longer)


def _enders(encoder: nn.Module) -> list[nn.Module | PretrainedConfig]:
    owners = (encoder.config, *encoder.modules())
    return [owner for owner in owners if hasattr(owner, "eos_token_id")]


def _mark_end(tokenizer: PreTrainedTokenizerBase, encoder: nn.Module) -> None:
    """Say where a text ends: old CLIP files take the largest id, which is now the new word."""
    for owner in _enders(encoder):
        if owner.eos_token_id == _LEGACY_EOS:
            owner.eos_token_id = tokenizer.eos_token_id
