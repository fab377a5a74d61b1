"""Textual Inversion: train nothing but the vector of the identifier.

Source: Gal et al., "An Image is Worth One Word" (2023), Sec. 4; defaults of Cones, Appendix B.1:
the vector starts as the category's, prompts vary, no prior. The embedding table is not written
to, so no other row can drift.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cones.backbones import backbone_for
from cones.backbones.identifier import encoders
from cones.backbones.spoken import spoken
from cones.find import Notify
from cones.methods.files import require, size_of, write
from cones.methods.loop import Task, joint_loss, said, trained
from cones.methods.tuned import Tuned

FILE = "learned_embeds.safetensors"  # what load_textual_inversion of diffusers looks for
TEMPLATES = (
    "a photo of {}",
    "a picture of {}",
    "a photograph of {}",
    "{}",
    "a close photo of {}",
    "a good photo of {}",
)


@dataclass(frozen=True, eq=False)
class Words(Tuned):
    """Learnt vectors of words, one file an encoder, as diffusers stores them."""

    def save(self, folder: Path) -> int:
        """Write ``learned_embeds.safetensors`` (``_2`` for a second encoder); give the bytes."""
        kinds = dict.fromkeys(name for rows in self.words.values() for name in rows)
        for kind in kinds:
            rows = {word: rows[kind] for word, rows in self.words.items()}
            write(_path(folder, kind), rows, {"encoder": kind})
        return size_of(folder)

    @classmethod
    def load(cls, folder: Path) -> "Words":
        """Read what :meth:`save` wrote."""
        words: dict[str, dict[str, Tensor]] = {}
        for kind in ("text_encoder", "text_encoder_2"):
            path = _path(folder, kind)
            if kind == "text_encoder" or path.exists():
                for word, rows in load_file(require(path).file).items():
                    words.setdefault(word, {})[kind] = rows
        return cls(tuple(words), words=words)


def _path(folder: Path, kind: str) -> Path:
    return folder / FILE.replace(".", f"{kind.removeprefix('text_encoder')}.", 1)


def first_vectors(pipeline: Any, word: str) -> dict[str, Tensor]:
    """Copy the vector of a word's first token from every text encoder."""
    found = {}
    for name, (tokenizer, encoder) in encoders(pipeline).items():
        number = tokenizer(word, add_special_tokens=False).input_ids[0]
        table = encoder.get_input_embeddings().weight
        found[name] = table.data[number : number + 1].float().clone()
    return found


@dataclass(frozen=True)
class TextualInversion:
    """The method and its settings.

    Attributes:
        steps: Updates.
        rate: Learning rate.
        batch: Photos in an update.
    """

    steps: int = 5000
    rate: float = 2e-2
    batch: int = 4

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> Words:
        """Learn each subject's vector; the pipeline's weights are not changed."""
        backbone = backbone_for(pipeline)
        words: dict[str, Mapping[str, Tensor]] = {}
        for task in tasks:
            (loss,) = joint_loss(pipeline, [Task(task.subject)], batch=self.batch).losses
            word = task.subject.identifier

            def loss_of(rows: dict[str, Tensor], step: int, loss=loss, word=word) -> Tensor:
                draw = torch.Generator().manual_seed(1_000_003 * seed + step)
                template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=draw))]
                with spoken(pipeline, {word: rows}):
                    each = [template.format(word)] * len(loss.subject)
                    return said(loss, backbone, each).at(step, seed=seed)({})

            words[word] = trained(
                first_vectors(pipeline, task.subject.noun),
                loss_of,
                steps=self.steps,
                rate=self.rate,
                label="textual inversion",
                notify=on_progress,
            )
        return Words(tuple(words), words=words)
