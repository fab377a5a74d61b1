"""Give a subject a word of its own in every tokenizer of a pipeline, for a while.

``V*`` becomes one token, whose vectors start as a copy of a rare word's and travel in the concept
file. A hook puts the vectors in: the embedding tables are never written to, and the tokenizers
are put back as they were.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from tokenizers import AddedToken
from torch import Tensor, nn

from cones.errors import ModelError
from cones.models.protocol import Model, Part, Pipeline

RARE_WORDS = ("sks", "ktn", "pll", "ucd", "wnv")
Rows = Float[Tensor, "vectors dim"]
Pair = tuple[Part, Part]
_NAME = re.compile(r"([bdfgklmnprstvz][aeiou]){2}[bdfgklmnprstvz]</w>")  # of the built-in model
_LEGACY_EOS = 2
_LAYERS: WeakKeyDictionary[nn.Module, list[list]] = WeakKeyDictionary()  # open contexts
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
def spoken(
    pipeline: Pipeline, words: Mapping[str, Mapping[str, Rows]], *, written: bool = False
) -> Iterator[None]:
    """Let the pipeline know ``words`` while the context is open; contexts nest.

    On leaving, tokenizers and text encoders are as before, bit for bit. Gradients flow to the
    vectors.

    Args:
        pipeline: Whose text encoders read the words.
        words: Word -> text encoder's name -> its vectors, on any device.
        written: Put the vectors into longer tables, not hooks, so that a saved pipeline has them.

    Raises:
        ModelError: A word means something else already, or its vectors are of another model.
            Nothing has been changed in that case.
    """
    pairs = encoders(pipeline)
    with ExitStack() as stack:
        if words:
            stack.enter_context(_kept(pairs))
        new = {word: rows for word, rows in words.items() if not _known(pairs, word, rows)}
        for name, (tokenizer, encoder) in pairs.items() if new else ():
            rows: dict[int, Tensor] = {}
            for word, each in new.items():
                rows |= zip(_add(tokenizer, word, len(each[name])), each[name], strict=True)
            for owner in _enders(encoder):  # old files end a text at its largest id: now the word
                if owner.eos_token_id == _LEGACY_EOS:
                    owner.eos_token_id = tokenizer.eos_token_id
            if written:
                _write(encoder, rows)
            else:
                stack.enter_context(_replaced(encoder.get_input_embeddings(), rows))
        yield


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
            "the identifier to start from; load a model that has one"
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


@contextmanager
def _kept(pairs: Mapping[str, Pair]) -> Iterator[None]:
    """Let tokenizers change copies of their state; put all back on leaving, in any order."""
    tokenizers, owners = zip(*pairs.values(), strict=True)
    states = [(tokenizer, dict(vars(tokenizer))) for tokenizer in tokenizers]
    tables = [(e, e.get_input_embeddings(), e.config.vocab_size) for e in owners]
    ends = [(owner, owner.eos_token_id) for e in owners for owner in _enders(e)]
    saved, layers = [(states, tables, ends)], _LAYERS.setdefault(owners[0], [])
    layers.append(saved)
    try:
        for tokenizer, state in states:
            vars(tokenizer).update(copy.deepcopy(state))
        yield
    finally:
        at = next(k for k, layer in enumerate(layers) if layer is saved)
        if at + 1 < len(layers):  # a later context is still open: it restores what we would
            layers[at + 1][:] = saved
        else:
            _restore(*saved[0])
        del layers[at]


def _restore(states: list, tables: list, ends: list) -> None:
    for tokenizer, state in states:
        vars(tokenizer).clear()
        vars(tokenizer).update(state)
    for encoder, table, size in tables:
        encoder.set_input_embeddings(table)
        encoder.config.vocab_size = size
    for owner, end in ends:
        owner.eos_token_id = end


def _enders(encoder: Part) -> list[Part]:
    owners = (encoder.config, *encoder.modules())
    return [owner for owner in owners if hasattr(owner, "eos_token_id")]


def _known(pairs: Mapping[str, Pair], word: str, rows: Mapping[str, Rows]) -> bool:
    """Tell whether the pipeline says ``word`` with these vectors; refuse other ones."""
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


def _present(tokenizer: Part, encoder: Part, word: str) -> Rows | None:
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


def _single(tokenizer: Part, word: str) -> int | None:
    pieces = tokenizer(word, add_special_tokens=False).input_ids
    if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id:
        return pieces[0]
    # Some rare entries, such as CLIP's 'ktn', are pieces that no text is cut into.
    index = tokenizer.get_vocab().get(word)
    return None if index == tokenizer.unk_token_id else index


def _add(tokenizer: Part, word: str, count: int) -> list[int]:
    """Add a word of ``count`` vectors, by diffusers' names: ``V*``, ``V*_1``, ``V*_2``."""
    said = [word, *(f"{word}_{number}" for number in range(1, count))]
    tokenizer.add_tokens([AddedToken(each, single_word=True, normalized=False) for each in said])
    added = tokenizer.get_added_vocab()
    return [added[each] for each in said]


def _write(encoder: Part, rows: Mapping[int, Tensor]) -> None:
    """Give the encoder a table that also holds ``rows``; the old one is not written to."""
    old = encoder.get_input_embeddings().weight.detach()
    table = old.new_zeros(max(*rows, len(old) - 1) + 1, old.shape[1])
    table[: len(old)] = old
    table[list(rows)] = torch.stack([row.detach().to(table) for row in rows.values()])
    encoder.set_input_embeddings(nn.Embedding.from_pretrained(table))
    encoder.config.vocab_size = len(table)


@contextmanager
def _replaced(table: nn.Module, rows: Mapping[int, Tensor]) -> Iterator[None]:
    """Let some tokens, which may lie outside the table, have vectors of their own."""
    seen: list[Tensor] = []

    def hide(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0])
        new = torch.isin(inputs[0], torch.tensor(list(rows), device=inputs[0].device))
        return (inputs[0].masked_fill(new, 0), *inputs[1:])

    def put_in(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ids = seen.pop()
        for token, row in rows.items():
            output = torch.where((ids == token)[..., None], row.to(output), output)
        return output

    hooks = table.register_forward_pre_hook(hide), table.register_forward_hook(put_in)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
