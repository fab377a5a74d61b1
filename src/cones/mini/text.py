"""The built-in model's words: a small byte-level BPE in the layout of CLIP's own tokenizer.

Learnt from captions of the corpus, so every word of :mod:`cones.mini.world` is one token and
any other text still falls into pieces of bytes.
"""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

LENGTH = 32  # tokens in a prompt, start and end included
VOCABULARY = 1024
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Learn byte pairs from captions and wrap them as a ``CLIPTokenizer``."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=" ", behavior="removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=[],
    )
    learner.train_from_iterator(sorted(set(captions)), trainer)
    model = __import__("json").loads(learner.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    known = set(words)
    words += [f"{letter}</w>" for letter in pre_tokenizers.ByteLevel.alphabet()]
    words = [w for i, w in enumerate(words) if w in known or i >= len(known)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    vocabulary[START], vocabulary[END] = len(vocabulary), len(vocabulary) + 1
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]):
    """Encode captions as integers ``(n, LENGTH)``, padded with the end token."""
    return tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
