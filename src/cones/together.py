"""Capture several subjects together (Sec. 3.3), inside the union of their neurons or from scratch.

Joining files (``a | b``) costs nothing but leaves neurons that help one subject and harm another.
Searching once more under the sum of all losses, among the union's neurons only, keeps those that
serve all of them: "collaboratively capturing".
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cones.backbones import backbone_for
from cones.base_check import BaseCheck
from cones.certificate import certify, closed, means_of
from cones.concept import Concept, Member
from cones.errors import SearchError
from cones.find import Notify, Settings, Step, find_levels, fingerprint, loss_of
from cones.generate import prepare
from cones.mask import ConceptMask
from cones.objective import JointLoss
from cones.subject import Subject

PAPER = (0.0132, 0.0243, 0.0454, 0.0701)  # density for one to four subjects, Table 2
SHARE = 0.9  # of the union, at most: otherwise there would be nothing to choose


def find_together(
    pipeline: Any,
    subjects: Sequence[Subject],
    *,
    parts: Sequence[Concept] = (),
    settings: Settings | None = None,
    priors: Sequence[Float[Tensor, "n 3 h w"]] | None = None,
    cache_dir: Path | None = None,
    state_dir: Path | None = None,
    on_progress: Notify | None = None,
) -> Concept:
    """Find the neurons that serve several subjects at once, under the sum of their losses.

    Args:
        pipeline: Text-to-image pipeline; its U-Net is not changed.
        subjects: Two or more, each with its own identifier.
        parts: Their concepts, in the same order: the search stays within the union of these.
            Without, all weights are searched ("from scratch").
        settings: How to search. ``density`` None is that of the paper for as many subjects
            (Table 2), and at most nine tenths of the union.
        priors: Prior pictures of every subject's noun; drawn by the model if None.
        cache_dir: Where drawn prior pictures are kept.
        state_dir: Where the search is saved and resumed from; None saves nothing.
        on_progress: Called after every step.

    Returns:
        A concept that names all subjects. Losses in its certificate are sums over the subjects;
        ``union`` is what joining the parts alone gives.

    Raises:
        ConesError: Of the part concerned. The model's weights are untouched in that case.
    """
    notify = on_progress or (lambda step: None)
    _require_apart(subjects, parts)
    started = time.monotonic()
    backbone = backbone_for(pipeline)
    union = prepare(pipeline, parts)
    settings = _settled(settings or Settings(), len(subjects), union)
    losses, members = [], []
    for subject, prior in zip(subjects, priors or [None] * len(subjects), strict=True):
        each, embeddings = loss_of(
            pipeline, subject, settings, prior=prior, cache_dir=cache_dir, notify=notify
        )
        losses.append(each)
        members.append(Member(subject.identifier, subject.noun, embeddings))
    loss = JointLoss(tuple(losses))
    weights = backbone.weights(settings.scope)
    backbone.release()
    base = BaseCheck.of(weights, backbone.model_id)
    key = fingerprint(base, loss, settings, union)
    folder = state_dir and state_dir / key
    levels = find_levels(loss, weights, settings, folder, notify, within=union)
    certificate, level = certify(
        loss,
        weights,
        levels,
        density=settings.density,
        samples=settings.held_out,
        seed=settings.seed,
        on_progress=lambda done, count: notify(Step("certificate", done, count)),
    )
    if union is not None:
        parts = loss.parts(closed(weights, union), samples=settings.held_out, seed=settings.seed)
        certificate["union"] = {"density": union.density, **means_of(parts)}
    certificate["seconds"] = round(time.monotonic() - started, 1)
    record = {**asdict(settings), "within": union.digest if union is not None else None}
    return Concept(levels, level, tuple(members), base, record, certificate)


def _require_apart(subjects: Sequence[Subject], parts: Sequence[Concept]) -> None:
    """Refuse what cannot be told apart, before anything is drawn."""
    words = [subject.identifier for subject in subjects]
    if len(words) < 2 or len(set(words)) < len(words):
        raise SearchError(
            f"found subjects {', '.join(words) or 'none'}; expected two or more with a word of "
            "their own each; find one again with another --identifier"
        )
    named = [part.identifier for part in parts]
    if parts and named != words:
        raise SearchError(
            f"found concepts of {', '.join(named)} for subjects {', '.join(words)}; expected one "
            "concept per subject, in the same order; reorder them"
        )


def _settled(settings: Settings, count: int, union: ConceptMask | None) -> Settings:
    """Fix the density where it is open; no neuron outside of the union can be added."""
    most = SHARE * union.density if union is not None else 1.0
    density = settings.density or min(most, PAPER[min(count, len(PAPER)) - 1])
    return replace(settings, density=density)
