"""The built-in model's words: a small byte-level BPE in the layout of CLIP's own tokenizer.

Learnt from captions of the corpus, so every word of :mod:`cones.mini.world` is one token and
any other text still falls into pieces of bytes. Byte pairs are learnt here and not by the
tokenizers library because its trainer breaks ties differently in every run.
"""

from collections import Counter
from collections.abc import Iterator

from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

LENGTH = 32  # tokens in a prompt, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
FINAL = "</w>"  # marks the last piece of a word


def _pairs(pieces: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    return zip(pieces, pieces[1:], strict=False)


def _joined(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of ``pair`` from left to right."""
    found: list[str] = []
    for piece in pieces:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


def learn_pairs(captions: list[str]) -> list[tuple[str, str]]:
    """Join the most frequent pair of pieces until every word is whole (byte-pair encoding).

    Ties go to the pair that sorts first.
    """
    counts = Counter(word for said in captions for word in said.lower().replace(",", " ,").split())
    split = {word: (*word[:-1], word[-1] + FINAL) for word in counts}
    learnt = []
    while True:
        seen: Counter = Counter()
        for word, pieces in split.items():
            for pair in _pairs(pieces):
                seen[pair] += counts[word]
        if not seen:
            return learnt
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        learnt.append(best)
        split = {word: _joined(pieces, best) for word, pieces in split.items()}


def learn_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Learn byte pairs from captions and wrap them as a ``CLIPTokenizer``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_pairs(captions)
    pieces = [*letters, *(letter + FINAL for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Encode captions as integers ``(n, LENGTH)``, padded with the end token."""
    return tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
