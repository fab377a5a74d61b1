"""Stage 3: words. A byte-level BPE in CLIP's layout and a stock CLIPTextModel, trained alone.

The tower learns from captions and exact labels, no picture: the state at a thing's noun must tell
what the caption says of it (of a named one, all that its name implies), the states at the end
must tell place, light, relation and which things stand in it; every state predicts the next word.
Then it is frozen. `SPARE_WORDS` are whole tokens that no caption holds; they get embeddings drawn
like those of the names, so an identifier can start from a word that could be a name but is none.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pretraining.loop import Recipe
from pretraining.world.captions import LIGHTS, PATTERNS, PLACES, RELATIONS
from pretraining.world.colours import COLOURS
from pretraining.world.looks import NAMED, named_look
from pretraining.world.scenes import NOUNS

RECIPE = Recipe(steps=900, batch=64, rate=2e-3, warmup=50, cooldown=0.5, average=0.99)
WIDTH, LAYERS, LENGTH = 384, 2, 32
START, END, FINAL = "<|startoftext|>", "<|endoftext|>", "</w>"
SPARE = 200
NAMED_SHARE = 0.25  # of a batch; captions with a name are rarer than that
THING = {  # what the state at a noun must tell; the first answer is "unsaid"
    "noun": ("", *NOUNS),
    "main": ("", *COLOURS),
    "second": ("", *COLOURS),
    "pattern": ("", "plain", "stripes", "dots", "zigzag", "band", "panels", "patches", "tuxedo",
                "points", "saddle", "socks", "belly"),
}  # fmt: skip
WHOLE = {  # what the states at the end must tell
    "place": ("", *PLACES),
    "light": ("", *LIGHTS),
    "relation": ("", *RELATIONS),
    "first noun": THING["noun"],
    "first main": THING["main"],
    "second noun": THING["noun"],
    "second main": THING["main"],
}


def names() -> list[str]:
    """Return what the named individuals are called."""
    return [str(named_look(index).name) for index in range(NAMED)]


def spare_words() -> list[str]:
    """Return words of consonants and vowels that nothing is called."""
    rng, taken, found = np.random.default_rng(11), set(names()), dict[str, None]()
    while len(found) < SPARE:
        kinds = ("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz")
        word = "".join(str(rng.choice(list(kind))) for kind in kinds)
        if word not in taken:
            found[word] = None
    return list(found)


def words_of(caption: str) -> list[str]:
    """Split a caption as the tokenizer does: a whole word a token, the comma by itself."""
    return re.findall(r"[a-z]+|,", caption.lower())


def _joined(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of ``pair`` from left to right."""
    found: list[str] = []
    for piece in pieces:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


def learn_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """Join the most frequent pair of pieces until every word of the captions is whole.

    Ties go to the pair that sorts first; the tokenizers library breaks them differently in every
    run. Any other text still falls into pieces of bytes.
    """
    counts = Counter(word for caption in captions for word in words_of(caption))
    counts.update(spare_words() + names())
    split = {word: (*word[:-1], word[-1] + FINAL) for word in counts}
    merges: list[tuple[str, str]] = []
    while True:
        seen: Counter[tuple[str, str]] = Counter()
        for word, pieces in split.items():
            for pair in pairwise(pieces):
                seen[pair] += counts[word]
        if not seen:
            break
        best = min(seen, key=lambda pair: (-seen[pair], pair))
        merges.append(best)
        split = {word: _joined(pieces, best) for word, pieces in split.items()}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + FINAL for letter in letters), *(a + b for a, b in merges)]
    vocabulary = {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Int[Tensor, "n tokens"]:
    """Encode captions, padded to the full length with the end token."""
    kind = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(captions), max_length=LENGTH, **kind).input_ids


class Reader(nn.Module):
    """The text tower, and the heads that are dropped once it is trained."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Start with random weights."""
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=768,
            num_hidden_layers=LAYERS,
            num_attention_heads=6,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
        self.tower = CLIPTextModel(config)
        self.thing = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in THING.items()})
        self.whole = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in WHOLE.items()})
        self.following = nn.Linear(WIDTH, len(tokenizer))

    def forward(self, tokens: Int[Tensor, "n tokens"]) -> Float[Tensor, "n tokens width"]:
        """Return the states that the U-Net reads."""
        return self.tower(tokens).last_hidden_state


def answers(row: Mapping[str, Any]) -> tuple[list[tuple[int, list[int]]], list[int]]:
    """Say what the states of a caption must tell.

    Returns:
        For each thing the position of its noun's token and the answers to `THING`; the answers
        to `WHOLE`.
    """
    words, things, after, mains = words_of(row["caption"]), [], 0, []
    for thing in row["things"]:
        noun = thing["noun"].split()
        at = next(i for i in range(after, len(words)) if words[i : i + len(noun)] == noun)
        span, after = words[after:at], at + len(noun)
        said = [word for word in span if word in COLOURS]
        pattern = next((key for key, word in PATTERNS.items() if word in span), "")
        main, second = (*said, "", "")[:2]
        if thing["name"]:
            main, second, pattern = thing["main"], thing["second"], thing["pattern"]
        said_of = zip(THING.values(), (thing["noun"], main, second, pattern), strict=True)
        things.append((after, [options.index(answer) for options, answer in said_of]))
        mains.append(main)
    rest = " ".join(words[after:])
    place = row["place"] if PLACES[row["place"]] in rest else ""
    nouns = [thing["noun"] for thing in row["things"]]
    pairs = [*zip(nouns, mains, strict=True), ("", "")][:2]
    whole = (place, row["light"] or "", row["relation"] or "", *pairs[0], *pairs[1])
    told = zip(WHOLE.values(), whole, strict=True)
    return things, [options.index(answer) for options, answer in told]


def questions(rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return `answers` of many captions: noun positions (n, 3), 0 for none; (n, 3, k); (n, m)."""
    where = torch.zeros(len(rows), 3, dtype=torch.long)
    each = torch.zeros(len(rows), 3, len(THING), dtype=torch.long)
    whole = torch.zeros(len(rows), len(WHOLE), dtype=torch.long)
    for i, row in enumerate(rows):
        things, told = answers(row)
        whole[i] = torch.tensor(told)
        for k, (position, said) in enumerate(things):
            where[i, k], each[i, k] = position, torch.tensor(said)
    return where, each, whole


def loss(
    reader: Reader,
    tokens: Int[Tensor, "n tokens"],
    asked: tuple[Tensor, Tensor, Tensor],
    draw: torch.Generator,
) -> Tensor:
    """Ask the states at the nouns, one of the end states (any of them may be read), and all."""
    where, each, whole = (part.to(tokens.device) for part in asked)
    with torch.autocast(tokens.device.type, torch.bfloat16, cache_enabled=False):
        states = reader(tokens)
        end = tokens.argmax(-1)  # the end token has the largest number
        chosen = torch.rand(len(tokens), generator=draw).to(tokens.device)
        late = end + (chosen * (LENGTH - end)).long()
        last = states[torch.arange(len(tokens)), late]
        row, thing = where.nonzero(as_tuple=True)
        nouns = states[row, where[row, thing]]
        found = [
            (head(nouns), each[row, thing, k]) for k, head in enumerate(reader.thing.values())
        ]
        found += [(head(last), whole[:, k]) for k, head in enumerate(reader.whole.values())]
        real = torch.arange(LENGTH - 1, device=tokens.device)[None] < end[:, None]
        found.append((reader.following(states[:, :-1][real]), tokens[:, 1:][real]))
    return torch.stack([F.cross_entropy(guess.float(), true) for guess, true in found]).sum()


@torch.no_grad()
def told(reader: Reader, tokens: Tensor, asked: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Measure the share of right answers to each question."""
    where, each, whole = asked
    states, end = reader(tokens), tokens.argmax(-1)
    row, thing = where.nonzero(as_tuple=True)
    nouns, last = states[row, where[row, thing]], states[torch.arange(len(tokens)), end]
    shares = {}
    for k, (key, head) in enumerate(reader.thing.items()):
        shares[key] = (head(nouns).argmax(-1) == each[row, thing, k]).float().mean().item()
    for k, (key, head) in enumerate(reader.whole.items()):
        shares[key] = (head(last).argmax(-1) == whole[:, k]).float().mean().item()
    return {key: round(share, 4) for key, share in shares.items()}


@torch.no_grad()
def fill_spare(reader: Reader, tokenizer: CLIPTokenizer) -> None:
    """Give the spare words embeddings with the mean and deviation of the names' own."""
    table = reader.tower.get_input_embeddings().weight
    vocabulary = tokenizer.get_vocab()
    known = table[[vocabulary[name + FINAL] for name in names()]]
    draw = torch.Generator().manual_seed(5)
    spare = [vocabulary[word + FINAL] for word in spare_words()]
    noise = torch.randn(len(spare), WIDTH, generator=draw)
    table[spare] = known.mean(0) + known.std(0) * noise
