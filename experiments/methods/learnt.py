"""What a method has learnt: concepts whose neurons are shut, or weights, words and an adapter.

Either is put into the pipeline for a while and taken out to the same bits, and either is one
folder on disk whose size is what a user would have to store.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cones import Concept, Mask, Word, load
from cones.files import replace_when_done, write_atomic
from cones.fingerprint import Fingerprint
from cones.models import Pipeline, model_for
from cones.models.applied import applied
from cones.models.words import Rows, spoken
from experiments.lab import Lab
from experiments.methods.adapters import adapted
from experiments.subjects import Example

TOLD, TENSORS = "learnt.json", "learnt.safetensors"


@dataclass(frozen=True, eq=False)
class Shut:
    """Concepts whose neurons are shut together."""

    concepts: tuple[Concept, ...]
    phrases: tuple[str, ...]  # how a prompt calls each subject
    gradients: int = 0
    strength: float = 1.0  # 0 only knows the words
    bytes: int = 0  # of the files that a user would have to store; known once it is read

    @property
    def mask(self) -> Mask:
        """Join the neurons of all concepts."""
        return reduce(or_, (concept.mask for concept in self.concepts))

    def applied(self, pipeline: Pipeline) -> AbstractContextManager[None]:
        """Shut the neurons and say the words while the context is open."""
        amounts = [self.strength] * len(self.concepts)
        return applied(pipeline, self.concepts, strengths=amounts)

    def save(self, folder: Path) -> None:
        """Write concept files, of one level each, and their certificates beside them."""
        size = 0
        for k, concept in enumerate(self.concepts):
            level = Concept((concept.mask,), concept.words, concept.base, concept.settings)
            size += level.save(folder / f"{k}.cones")
            write_atomic(folder / f"{k}.json", json.dumps(dict(concept.certificate)).encode())
        told = {"phrases": self.phrases, "gradients": self.gradients, "strength": self.strength}
        told["bytes"] = size if self.strength else 0
        write_atomic(folder / TOLD, json.dumps(told).encode())


@dataclass(frozen=True, eq=False)
class Tuned:
    """Weights, words and adapters that were trained."""

    words: Mapping[str, Mapping[str, Rows]]  # vectors by identifier and text encoder
    phrases: tuple[str, ...]  # how a prompt calls each subject
    gradients: int = 0
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # whole parameters, by name
    adapter: Mapping[str, Tensor] = field(default_factory=dict)  # by peft's names
    config: Mapping[str, object] = field(default_factory=dict)  # its kind, r and targets
    losses: tuple[float, ...] = ()  # of the training, step by step
    bytes: int = 0  # of the tensors, in float32; known once it is read

    @contextmanager
    def applied(self, pipeline: Pipeline) -> Iterator[None]:
        """Put words, weights and adapter in; afterwards every bit is as before."""
        module = model_for(pipeline).module
        with ExitStack() as stack:
            stack.enter_context(spoken(pipeline, self.words))
            stack.enter_context(written(module, self.weights))
            if self.adapter:
                stack.enter_context(adapted(module, self.config, self.adapter))
            yield

    def save(self, folder: Path) -> None:
        """Write one file of tensors."""
        named = {f"weights/{n}": t for n, t in self.weights.items()}
        named |= {f"adapter/{n}": t for n, t in self.adapter.items()}
        named |= {f"words/{w}/{e}": t for w, rows in self.words.items() for e, t in rows.items()}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
        with replace_when_done(folder / TENSORS) as part:
            save_file(plain, part)
        told = {"phrases": self.phrases, "gradients": self.gradients, "losses": self.losses}
        told |= {"config": dict(self.config), "bytes": (folder / TENSORS).stat().st_size}
        write_atomic(folder / TOLD, json.dumps(told).encode())


Fitted: TypeAlias = Shut | Tuned  # what a method has learnt of one subject or several


def read(folder: Path) -> Fitted:
    """Read what either kind has saved."""
    told = json.loads((folder / TOLD).read_text("utf-8"))
    told["phrases"] = tuple(told["phrases"])
    if not (folder / TENSORS).exists():
        concepts = []
        for file in sorted(folder.glob("*.cones"), key=lambda file: int(file.stem)):
            certificate = json.loads(file.with_suffix(".json").read_text("utf-8"))
            concepts.append(replace(load(file), certificate=certificate))
        return Shut(tuple(concepts), **told)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "adapter": {}}
    words: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / TENSORS).items():
        part, _, rest = name.partition("/")
        if part == "words":
            word, _, encoder = rest.rpartition("/")
            words.setdefault(word, {})[encoder] = tensor
        else:
            parts[part][rest] = tensor
    told["losses"] = tuple(told["losses"])
    return Tuned(words, **told, **parts)


def untouched(lab: Lab, examples: Sequence[Example]) -> Shut:
    """Give the model as it is, which knows the identifiers by the words they start from."""
    weights = lab.model.weights()
    empty = Mask.empty({name: tuple(weight.shape) for name, weight in weights.items()})
    base = Fingerprint.of(weights, lab.model.name)
    words = (Word(each.identifier, each.noun, lab.start(each)) for each in examples)
    concepts = tuple(Concept((empty,), (word,), base) for word in words)
    return Shut(concepts, tuple(each.phrase for each in examples), strength=0.0)


@contextmanager
def written(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Write values into parameters, and their old bits back on leaving.

    Raises:
        KeyError: The module lacks one of them; nothing has been written.
    """
    parameters = dict(module.named_parameters())
    chosen = {name: parameters[name] for name in weights}
    before = {name: parameter.detach().clone() for name, parameter in chosen.items()}
    try:
        _write(chosen, weights)
        yield
    finally:
        _write(chosen, before)


@torch.no_grad()
def _write(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
