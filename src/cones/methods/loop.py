"""The training that the rival methods share: tasks, AdamW on a loss per step, progress.

What is drawn at a step is what a search of Cones draws at that step with the same seed, so that
methods differ in what they change and not in what they see.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cones.backbones import Backbone, backbone_for
from cones.errors import SearchError
from cones.find import Notify, Step
from cones.objective import ImplantingLoss, JointLoss, examples
from cones.subject import Subject

DECAY = 1e-2  # weight decay of AdamW, torch's default and that of the originals' scripts
CLIP = 1.0  # largest norm of a gradient


@dataclass(frozen=True, eq=False)
class Task:
    """A subject to be learnt, and pictures of other things of its noun.

    Attributes:
        subject: Photos, noun and identifier.
        prior: RGB in [0, 1]; None does without preserving the prior.
    """

    subject: Subject
    prior: Float[Tensor, "n 3 h w"] | None = None


def descend(
    leaves: Sequence[Tensor],
    loss_of: Callable[[int], Float[Tensor, ""]],
    *,
    steps: int,
    rate: float,
    label: str,
    notify: Notify | None = None,
) -> None:
    """Lower a loss with AdamW and clipped gradients; the leaves are changed in place.

    Args:
        leaves: Tensors that require gradients.
        loss_of: Gives the loss of a step.
        steps: Updates; 0 changes nothing.
        rate: Learning rate, constant.
        label: What the progress is called.
        notify: Called after every update.

    Raises:
        SearchError: The loss is not finite. The leaves are as after the last update.
    """
    optimiser = torch.optim.AdamW(leaves, lr=rate, weight_decay=DECAY)
    for step in range(steps):
        with torch.enable_grad():
            loss = loss_of(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SearchError(
                f"found a loss of {value} at step {step} of {label}; expected a finite one; lower "
                "the rate"
            )
        # Not backward(): it would leave gradients in the text encoder's own parameters.
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient.contiguous()
        torch.nn.utils.clip_grad_norm_(leaves, CLIP)
        optimiser.step()
        if notify:
            notify(Step(label, step + 1, steps, value))


def trained(
    start: Mapping[str, Tensor],
    loss_of: Callable[[dict[str, Tensor], int], Float[Tensor, ""]],
    *,
    steps: int,
    rate: float,
    label: str,
    notify: Notify | None = None,
) -> dict[str, Tensor]:
    """Train copies of ``start`` as :func:`descend` does, and give them.

    Args:
        start: By any names.
        loss_of: Gives the loss of tensors of these names at a step.
        steps: Updates.
        rate: Learning rate.
        label: What the progress is called.
        notify: Called after every update.
    """
    leaves = leaves_of(start)
    descend(
        list(leaves.values()),
        lambda step: loss_of(leaves, step),
        steps=steps,
        rate=rate,
        label=label,
        notify=notify,
    )
    return {name: leaf.detach() for name, leaf in leaves.items()}


def joint_loss(pipeline: Any, tasks: Sequence[Task], *, batch: int) -> JointLoss:
    """Prepare the sum of the losses of all tasks (Eq. 4, lambda 1); registers the identifiers."""
    backbone = backbone_for(pipeline)
    backbone.recall()
    for task in tasks:
        backbone.register(task.subject.identifier)
    losses = []
    for task in tasks:
        prior = None
        if task.prior is not None:
            prior = examples(backbone, task.prior, f"a {task.subject.noun}")
        losses.append(
            ImplantingLoss(backbone, examples(backbone, task.subject), prior, batch=batch)
        )
    return JointLoss(tuple(losses))


def leaves_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights in float32, to be trained."""
    return {name: w.detach().float().clone().requires_grad_() for name, w in weights.items()}


def said(loss: ImplantingLoss, backbone: Backbone, prompts: Sequence[str]) -> ImplantingLoss:
    """Give the loss with the prompt of every photo encoded anew, with gradients to its words."""
    return replace(loss, subject=replace(loss.subject, condition=backbone.embedded(prompts)))
