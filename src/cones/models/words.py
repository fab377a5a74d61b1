"""Give a subject a word of its own in every tokenizer of a pipeline.

``V*`` becomes one token. In every text encoder it has one vector, which starts as a copy of a rare
word's and travels in the concept file. A hook puts it in: the embedding tables are never written
to, and the tokenizers are put back as they were. T5 and Gemma get no new token: they read the
rare word itself in the place of ``V*``, and the vectors of its pieces say which word that is.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from tokenizers import AddedToken, Regex, normalizers
from torch import Tensor, nn

from cones.errors import ModelError
from cones.models.types import Part, Pipeline

RARE_WORDS = ("sks", "ktn", "pll", "ucd", "wnv")
READERS = ("t5", "umt5", "gemma", "gemma2")  # model types whose vocabulary stays as it is
Rows = Float[Tensor, "_ _"]  # one vector, or those of a word's pieces
Pair = tuple[Part, Part]
_NAME = re.compile(r"([bdfgklmnprstvz][aeiou]){2}[bdfgklmnprstvz]</w>")  # of the built-in model
_LEGACY_EOS = 2  # in old files; their encoders end a text at its largest id, now that of the word
_EMPTY = 10  # entries at most of a tokenizer without files: start, end, padding


def encoders(pipeline: Pipeline) -> dict[str, Pair]:
    """Pair every text encoder of ``pipeline`` with its tokenizer, by the encoder's name."""
    pairs = {}
    for suffix in ("", "_2", "_3"):
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        tokenizer = getattr(pipeline, f"tokenizer{suffix}", None)
        if encoder is None:
            continue
        if tokenizer is None or tokenizer.vocab_size <= _EMPTY:
            raise ModelError(
                f"found no vocabulary for tokenizer{suffix}; expected the files of a tokenizer "
                f"(tokenizer.json) in the model's folder 'tokenizer{suffix}'; copy them there "
                "from the model that this one was made from"
            )
        pairs[f"text_encoder{suffix}"] = (tokenizer, encoder)
    return pairs


def vectors(pipeline: Pipeline, word: str) -> dict[str, Rows]:
    """Copy the vector of a word that is one token of CLIP from every text encoder."""
    pairs = encoders(pipeline)
    found = _present(pairs, word)
    if len(found) < len(pairs):
        raise ModelError(
            f"found that {word!r} is not one token of this model; expected a word that is, such "
            f"as {candidates(pipeline)[0]!r}; choose another"
        )
    return found


@contextmanager
def spoken(pipeline: Pipeline, words: Mapping[str, Mapping[str, Rows]]) -> Iterator[None]:
    """Let the pipeline know ``words`` while the context is open; contexts nest.

    ``words`` maps a word to its vectors, on any device, by the name of the text encoder. Gradients
    flow to them. On leaving, tokenizers and text encoders are as before, bit for bit.

    Raises:
        ModelError: A word means something else already, or its vectors are of another model.
            Nothing has been changed in that case.
    """
    pairs = encoders(pipeline)
    with ExitStack() as stack:
        for pair in pairs.values() if words else ():
            stack.enter_context(_kept(*pair))
        new = {word: rows for word, rows in words.items() if not _known(pairs, word, rows)}
        for name, (tokenizer, encoder) in pairs.items() if new else ():
            if reads(encoder):
                _respell(tokenizer, {w: _rare(pairs[name], w, new[w][name]) for w in new})
                continue
            tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=False) for w in new])
            token = tokenizer.convert_tokens_to_ids
            rows = {token(word): each[name][0] for word, each in new.items()}
            stack.enter_context(_replaced(encoder.get_input_embeddings(), rows))
        yield


def candidates(pipeline: Pipeline) -> tuple[str, ...]:
    """List words that V* can start from: rare ones, or the names that the built-in model knows."""
    tokenizer = next((said for said, e in encoders(pipeline).values() if not reads(e)), None)
    if tokenizer is None:
        return RARE_WORDS
    rare = [word for word in RARE_WORDS if _token(tokenizer, word) is not None]
    names = sorted(entry for entry in tokenizer.get_vocab() if _NAME.fullmatch(entry))
    if not (rare or names):
        raise ModelError(
            f"found none of {', '.join(RARE_WORDS)} in the vocabulary; expected a rare word for "
            "the identifier to start from; load a model that has one"
        )
    return tuple(rare) or tuple(name.removesuffix("</w>") for name in names)


@contextmanager
def _kept(tokenizer: Part, encoder: Part) -> Iterator[None]:
    """Let the tokenizer change a copy of its state, and end texts at its own end; undo both."""
    state = dict(vars(tokenizer))
    owners = [o for o in (encoder.config, *encoder.modules()) if hasattr(o, "eos_token_id")]
    legacy = [owner for owner in owners if owner.eos_token_id == _LEGACY_EOS]
    try:
        vars(tokenizer).update(copy.deepcopy(state))
        for owner in legacy:
            owner.eos_token_id = tokenizer.eos_token_id
        yield
    finally:
        vars(tokenizer).clear()
        vars(tokenizer).update(state)
        for owner in legacy:
            owner.eos_token_id = _LEGACY_EOS


def _known(pairs: Mapping[str, Pair], word: str, rows: Mapping[str, Tensor]) -> bool:
    """Tell whether the pipeline says ``word`` with this vector; refuse another one."""
    found = {name: tuple(each.shape) for name, each in rows.items()}
    tables = {name: encoder.get_input_embeddings() for name, (_, encoder) in pairs.items()}
    growing = {name: pair for name, pair in pairs.items() if not reads(pair[1])}
    count = {name: 1 if name in growing else len(rows.get(name, ())) for name in pairs}
    expected = {name: (count[name], table.embedding_dim) for name, table in tables.items()}
    if found != expected:
        raise ModelError(
            f"found vectors of shape {found} for {word!r}; expected {expected}; load the model "
            "this concept was found on"
        )
    present = _present(growing, word)
    for name, each in present.items():
        if not torch.equal(rows[name].to(each), each):
            raise ModelError(
                f"found that {word!r} already means something else to {name}; expected a new "
                "word; rename this concept: concept.renamed('V2*')"
            )
    return bool(growing) and len(present) == len(growing)


@torch.no_grad()
def _present(pairs: Mapping[str, Pair], word: str) -> dict[str, Rows]:
    """Read a word's vectors as the encoders read them, hooks included, where it is one token."""
    found = {}
    for name, (tokenizer, encoder) in pairs.items():
        table = encoder.get_input_embeddings()
        pieces = tokenizer(word, add_special_tokens=False).input_ids
        if reads(encoder) or _token(tokenizer, word) is not None:
            found[name] = table(torch.tensor(pieces, device=table.weight.device)).clone()
    return found


def reads(encoder: Part) -> bool:
    """Tell encoders that read a rare word from those that get a token."""
    return encoder.config.model_type in READERS


def _rare(pair: Pair, word: str, rows: Rows) -> str:
    """Find the word whose pieces have these vectors, in any precision."""
    for each in (*RARE_WORDS, word):
        there = _present({"": pair}, each)[""]
        alike = rows.shape == there.shape
        if alike and torch.allclose(rows.to(there), there, rtol=0.02, atol=1e-6):
            return each
    raise ModelError(
        f"found vectors of no rare word for {word!r}; expected those of one of "
        f"{', '.join(RARE_WORDS)}; load the model this concept was found on"
    )


def _respell(tokenizer: Part, words: Mapping[str, str]) -> None:
    """Let a tokenizer read other words in the place of some, which pipelines may have lowered."""
    backend = tokenizer.backend_tokenizer
    steps = [] if backend.normalizer is None else [backend.normalizer]
    for word, rare in words.items():
        found = Regex(rf"(?i)(?<!\w){re.escape(word)}(?!\w)")
        steps.insert(0, normalizers.Replace(found, rare))
    backend.normalizer = normalizers.Sequence(steps)


def _token(tokenizer: Part, word: str) -> int | None:
    pieces = tokenizer(word, add_special_tokens=False).input_ids
    return pieces[0] if len(pieces) == 1 and pieces[0] != tokenizer.unk_token_id else None


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
