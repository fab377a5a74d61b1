"""Words: a byte-level BPE in CLIP's layout and a stock CLIPTextModel, trained alone, then frozen.

The tower learns from captions and exact labels, no picture: the state at a thing's noun must tell
what the caption says of it (of a named one, all that its name implies), the states at the end
must tell place, light, relation and which things stand in it; every state predicts the next word.
The words of `SPARE` are whole tokens that no caption holds; they get embeddings drawn like those
of the names, so an identifier can start from a word that could be a name but is none.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.metrics.examiner import TRAITS
from pretraining.loop import NETWORKS, Stage, Work, averaged
from pretraining.world.captions import LIGHTS, PATTERNS, PLACES, RELATIONS
from pretraining.world.looks import NAMED, named_look

WIDTH, LENGTH = (NETWORKS["text"][k] for k in ("hidden_size", "max_position_embeddings"))
FINAL = "</w>"
SPARE = Path(__file__).with_name("spare_words.txt").read_text().split()
NAMED_OFTEN = 3.0  # captions with a name are drawn so much more often: they are rare
MOST = 3  # things in a picture
THING = {trait: ("", *words) for trait, words in TRAITS.items()}  # told at a noun; "" is unsaid
WHOLE = {  # told at the end
    "place": ("", *PLACES),
    "light": ("", *LIGHTS),
    "relation": ("", *RELATIONS),
    "first noun": THING["noun"],
    "first main": THING["main"],
    "second noun": THING["noun"],
    "second main": THING["main"],
}
WORD = "[a-z]+|,"


def names() -> list[str]:
    """Return what the named individuals are called."""
    return [str(named_look(index).name) for index in range(NAMED)]


def learn_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """Join frequent pairs until every word of the captions is whole; the rest falls into bytes.

    All pieces of one byte are in the vocabulary from the start, in a fixed order: the library
    would number them differently in every run, and join other pairs where two are as frequent.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + FINAL for letter in letters)]
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    kind = {"special_tokens": pieces, "end_of_word_suffix": FINAL, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=100_000, **kind)
    bpe.train_from_iterator([*captions, *SPARE, *names()], trainer)
    found = json.loads(bpe.to_str())["model"]
    pieces = [*found["vocab"], "<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(pair) for pair in found["merges"]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
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
        special = {f"{kind}_token_id": tokenizer.eos_token_id for kind in ("eos", "pad")}
        special |= {"bos_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
        config = CLIPTextConfig(**NETWORKS["text"], **special)
        self.tower = CLIPTextModel(config)
        self.thing = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in THING.items()})
        self.whole = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in WHOLE.items()})
        self.following = nn.Linear(WIDTH, len(tokenizer))

    def forward(self, tokens: Int[Tensor, "n tokens"]) -> Float[Tensor, "n tokens width"]:
        """Return the states that the U-Net reads."""
        return self.tower(tokens).last_hidden_state


def said(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Say what a caption tells of each thing (`THING`, and ``at``, its noun's token) and place.

    A name tells all that is known of its bearer.
    """
    rest, at, told = row["caption"], 0, []
    for thing in row["things"]:
        before, rest = re.split(rf"\b{thing['noun']}\b", rest, maxsplit=1)
        words = re.findall(WORD, before)
        at += len(words) + len(thing["noun"].split())  # token 0 is the start
        colours = [word for word in words if word in THING["main"]]
        pattern = next((key for key, word in PATTERNS.items() if word in words), "")
        traits = zip(THING, (thing["noun"], *(*colours, "", "")[:2], pattern), strict=True)
        known = {key: thing[key] for key in THING} if thing["name"] else dict(traits)
        told.append(known | {"at": at})
    return told, row["place"] if PLACES[row["place"]] in rest else ""


def questions(rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return nouns' tokens (n, 3), 0 for none, and the answers, (n, 3, 4) and (n, 7)."""
    nothing = dict.fromkeys(THING, "") | {"at": 0}
    where, each, whole = [], [], []
    for row in rows:
        told, place = said(row)
        told = (told + MOST * [nothing])[:MOST]
        where.append([thing["at"] for thing in told])
        each.append([[words.index(thing[k]) for k, words in THING.items()] for thing in told])
        first = (thing[key] for thing in told[:2] for key in ("noun", "main"))
        answers = (place, row["light"] or "", row["relation"] or "", *first)
        whole.append([words.index(a) for words, a in zip(WHOLE.values(), answers, strict=True)])
    return torch.tensor(where), torch.tensor(each), torch.tensor(whole)


class Text(Stage[Reader]):
    """Trains the tower and its heads."""

    def _build(self) -> Reader:
        return Reader(tokenizer_of(self.work))

    def _prepare(self) -> Tensor:
        rows, tokenizer = self.work.pictures.rows, tokenizer_of(self.work)
        self.asked = (tokenize(tokenizer, [row["caption"] for row in rows]), *questions(rows))
        named = torch.tensor([bool(row["things"][0]["name"]) for row in rows])
        return torch.where(named, NAMED_OFTEN, 1.0)

    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        """Ask the states at the nouns, one of the end states (any may be read), and all."""
        device = self.work.device
        tokens, where, each, whole = (part[index].to(device) for part in self.asked)
        end = tokens.argmax(-1)  # the end token has the largest number
        late = end + (torch.rand(len(end), generator=draw).to(device) * (LENGTH - end)).long()
        real = torch.arange(LENGTH - 1, device=device)[None] < end[:, None]
        module, found = self.module, []
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            states = module(tokens)
            found.append((module.following(states[:, :-1][real]), tokens[:, 1:][real]))
            asked = ((module.thing, where, each), (module.whole, late[:, None], whole[:, None]))
            for heads, at, answers in asked:
                row, k = at.nonzero(as_tuple=True)
                read, told = states[row, at[row, k]], answers[row, k]
                found += [(head(read), told[:, j]) for j, head in enumerate(heads.values())]
        return torch.stack([F.cross_entropy(guess.float(), true) for guess, true in found]).sum()


def tokenizer_of(work: Work) -> CLIPTokenizer:
    """Learn the tokenizer once: every later stage depends on its numbers."""
    folder = work.folder / "tokenizer"
    if not folder.exists():
        captions = [row["caption"] for row in work.pictures.rows]
        learn_tokenizer(captions).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def finished(work: Work) -> tuple[Reader, CLIPTokenizer]:
    """Return the trained tower with its heads, and the tokenizer.

    Spare words get embeddings with the mean and the deviation of the names' own.
    """
    tokenizer = tokenizer_of(work)
    reader = averaged(Reader(tokenizer), work.folder / "text")
    table, vocabulary = reader.tower.get_input_embeddings().weight, tokenizer.get_vocab()
    named, spare = ([vocabulary[w + FINAL] for w in words] for words in (names(), SPARE))
    noise = torch.randn(len(SPARE), WIDTH, generator=torch.Generator().manual_seed(5))
    table[spare] = table[named].mean(0) + table[named].std(0) * noise
    return reader.to(work.device), tokenizer


def states(work: Work) -> Float[Tensor, "n tokens width"]:
    """Encode every caption, once; the empty one comes last."""
    reader, tokenizer = finished(work)
    tokens = tokenize(tokenizer, [*(row["caption"] for row in work.pictures.rows), ""])
    return work.cached("states", lambda part: reader(part.to(work.device)), tokens)
