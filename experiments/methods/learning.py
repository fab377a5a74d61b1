"""The training that all rivals share: what they see, AdamW, and going on after an interruption.

At every step a rival sees photos, mirror images, prompt, timesteps and noise drawn as a search of
Cones draws them, but in batches of 8. The prior is the original's: pictures that the
untouched model drew of the noun, with weight 1 (Eqs. 3 and 4). Rivals differ in what they train.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from cones.errors import SearchError
from cones.models import UNetModel
from cones.models.words import Rows, spoken
from cones.search.loss import Gradient, ImplantingLoss, examples
from cones.search.resume import Keeper, Progress
from experiments.lab import Lab
from experiments.methods.adapters import flags_kept
from experiments.methods.fits import Task
from experiments.methods.learnt import written

PURPOSE = "search-refine 1.32%"  # as a search says; its batches are smaller, so draws differ
DECAY, CLIP = 1e-2, 1.0  # of AdamW, and the largest norm of a gradient: those of the originals
LONGEST = 20_000  # steps
MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}  # in saved states, and as AdamW says
Words = Mapping[str, Mapping[str, Rows]]


class Live(UNetModel):
    """A model as it is at this moment: gradients reach its parameters, adapters and words."""

    def _held(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is seen of one subject or several (Eq. 4, summed over subjects)."""

    live: Live  # the model that learns
    losses: tuple[ImplantingLoss, ...]  # one for each subject
    phrases: tuple[str, ...]
    words: Words  # vectors that the identifiers start from
    seed: int

    @classmethod
    def of(cls, lab: Lab, task: Task, *, prior: bool = True) -> "Lesson":
        """Encode photos and prior pictures once."""
        live, losses = Live(lab.pipeline), []
        words = {each.identifier: lab.start(each) for each in task.examples}
        for each in task.examples:
            pixels, drawn = each.seen(live.size), None
            if prior:
                pictures = lab.prior(each, seed=task.seed)
                drawn = examples(live, pictures, each.plain)
            with spoken(lab.pipeline, words):
                pairs = examples(live, pixels, each.phrase, flip=True)
            losses.append(ImplantingLoss(live, pairs, drawn, against="data"))
        phrases = tuple(each.phrase for each in task.examples)
        return cls(live, tuple(losses), phrases, words, task.seed)

    def at(self, step: int, *, anew: bool = False, purpose: str = PURPOSE) -> list[Tensor]:
        """Give L_sub and L_pr of a step; ``anew`` encodes the prompts again, with gradients."""
        total = [torch.zeros(()), torch.zeros(())]
        for k, loss in enumerate(self.losses):
            if anew:
                said = self.live.embedded([self.phrases[k]] * len(loss.subject))
                loss = replace(loss, subject=replace(loss.subject, condition=said))
            own = f"{purpose} {k}" if len(self.losses) > 1 else purpose
            for part in loss.at(step, purpose=own, seed=self.seed)({}):
                total = [a.to(b) + b for a, b in zip(total, part(), strict=True)]
        return total


def train(
    leaves: Mapping[str, Tensor],
    loss_of: Callable[[int], list[Tensor]],
    *,
    steps: int,
    rate: float,
    stage: str,
    state: Path,
    going_on: bool,
    progress: Progress,
) -> tuple[float, ...]:
    """Lower L_sub + L_pr by AdamW, in place, and give the loss of every step.

    The rate is constant, so that a longer run begins as a shorter one. Steps that the folder
    ``state`` holds are not taken again, unless they are more; it is emptied at the end unless the
    run is ``going_on``.
    """
    keeper = Keeper(None if _taken(state / f"{stage}.safetensors") > steps else state, progress)
    kept = _kept(leaves)
    optimiser = torch.optim.AdamW(leaves.values(), lr=rate, weight_decay=DECAY)
    measure = partial(_slope, leaves, loss_of, stage)

    def absorb(step: int, found: Gradient) -> None:
        for name, leaf in leaves.items():
            leaf.grad = found.of[name].contiguous()
            moments = {own: kept[f"{moment}/{name}"] for moment, own in MOMENTS.items()}
            optimiser.state[leaf] = {"step": torch.tensor(float(step)), **moments}
        torch.nn.utils.clip_grad_norm_(leaves.values(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        kept["loss/all"][step] = found.subject + found.prior

    keeper.run(stage, steps, state=kept, measure=measure, absorb=absorb)
    if not going_on:
        keeper.forget()
    return tuple(kept["loss/all"][:steps].tolist())


@torch.enable_grad()
def _slope(
    leaves: Mapping[str, Tensor], loss_of: Callable[[int], list[Tensor]], stage: str, step: int
) -> Gradient:
    """Give the loss of a step and its slope; refuse a loss that is infinite or no number."""
    subject, prior = loss_of(step)
    found = torch.autograd.grad(subject + prior, list(leaves.values()))  # Eq. 4, lambda 1
    halves = float(subject.detach()), float(prior.detach())
    if not math.isfinite(loss := sum(halves)):
        told = f"found a loss of {loss} at step {step} of {stage}"
        raise SearchError(f"{told}; expected a finite one; lower the rate")
    return Gradient(*halves, dict(zip(leaves, found, strict=True)))


def _kept(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give what a saved state holds: losses, values (the leaves' own memory) and moments."""
    kept = {"loss/all": torch.zeros(LONGEST)}
    for name, leaf in leaves.items():
        kept[f"value/{name}"] = leaf.detach()
        kept |= {f"{moment}/{name}": torch.zeros_like(leaf.detach()) for moment in MOMENTS}
    return kept


@contextmanager
def trainable(module: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, nn.Parameter]]:
    """Let gradients reach these parameters alone; on leaving, all bits and flags are as before."""
    parameters = dict(module.named_parameters())
    chosen = {name: parameters[name] for name in names}
    with flags_kept(module), written(module, chosen):  # as they are, to be written back
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
        yield chosen


def start_held(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Let no gradient through the key or value of the first token (Custom Diffusion)."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)


def _taken(path: Path) -> int:
    """Count the steps that a state has behind it."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int((file.metadata() or {"step": "0"})["step"])
