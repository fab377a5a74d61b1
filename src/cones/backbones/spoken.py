"""Let words mean other vectors for a while, without writing to the embedding tables.

A hook on a text encoder's token embedding puts the given vectors in the place of the words' own.
Nothing has to be undone, other rows cannot drift, and gradients flow to the vectors alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cones.backbones.identifier import Embeddings, encoders
from cones.errors import BackboneError


@contextmanager
def spoken(pipeline: Any, words: Mapping[str, Embeddings]) -> Iterator[None]:
    """Give words other vectors until the block ends.

    Args:
        pipeline: Whose text encoders read the words.
        words: Word -> encoder's name -> vectors ``(1, dim)``. Words without vectors keep their
            own meaning.

    Raises:
        BackboneError: A word is not one token of its own; register it first.
    """
    with ExitStack() as stack:
        for name, (tokenizer, encoder) in encoders(pipeline).items():
            rows = {
                _number(tokenizer, word): rows[name][0]
                for word, rows in words.items()
                if name in rows
            }
            if rows:
                table = encoder.get_input_embeddings()
                stack.callback(table.register_forward_hook(_Replace(rows)).remove)
        yield


class _Replace:
    """A forward hook that replaces the vectors of some tokens."""

    def __init__(self, rows: Mapping[int, Tensor]) -> None:
        self.rows = rows

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for number, vector in self.rows.items():
            output = torch.where((inputs[0] == number)[..., None], vector.to(output), output)
        return output


def _number(tokenizer: Any, word: str) -> int:
    added = tokenizer.get_added_vocab()
    if word not in added or f"{word}_1" in added:
        raise BackboneError(
            f"found that {word!r} is not one token; expected a registered word of one vector; "
            "register it first"
        )
    return added[word]
