"""Find the concept neurons of a subject: pictures in, :class:`cones.concept.Concept` out.

The one call behind ``cones find``: registers the identifier, prepares both halves of the loss,
runs a rule of :mod:`cones.rules`, picks the density by a line search on held-out samples, and
measures what the concept's certificate says. The model is as before afterwards, but for the new
word in its tokenizer.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cones.backbones import backbone_for
from cones.base_check import BaseCheck
from cones.certificate import certify
from cones.concept import Concept, Member
from cones.mask import ConceptMask
from cones.objective import Examples, ImplantingLoss, JointLoss, examples
from cones.prior import prior_prompts, prior_set
from cones.rules import RULES, Question
from cones.settings import DENSITIES, DENSITY, Settings
from cones.state import Progress, SearchState, run
from cones.subject import Subject

SAVE_EVERY = 50


@dataclass(frozen=True)
class Step:
    """What :func:`find` is doing.

    Attributes:
        stage: ``prior``, the name of a search, or ``certificate``.
        step: Steps done.
        steps: Steps in all.
        loss: Of the last gradient, where there is one.
    """

    stage: str
    step: int
    steps: int
    loss: float | None = None


Notify = Callable[[Step], object]


def find(
    pipeline: Any,
    subject: Subject,
    *,
    settings: Settings | None = None,
    prior: Float[Tensor, "n 3 h w"] | None = None,
    cache_dir: Path | None = None,
    state_dir: Path | None = None,
    on_progress: Notify | None = None,
) -> Concept:
    """Find a subject's concept neurons (Algorithms 1 and A2, Sec. 3.1) and certify them.

    Args:
        pipeline: Text-to-image pipeline; its U-Net is not changed.
        subject: Photos, noun and identifier.
        settings: How to search.
        prior: Pictures of other things of the noun, RGB in [0, 1]; drawn by the model if None.
        cache_dir: Where drawn prior pictures are kept.
        state_dir: Where the search is saved every 50 steps and resumed from; None saves nothing.
        on_progress: Called after every step.

    Returns:
        The concept, at the density that the line search chose or the settings fix.

    Raises:
        ConesError: Of the part concerned. The model's weights are untouched in that case.
    """
    settings = settings or Settings()
    notify = on_progress or (lambda step: None)
    started = time.monotonic()
    backbone = backbone_for(pipeline)
    loss, embeddings = loss_of(
        pipeline, subject, settings, prior=prior, cache_dir=cache_dir, notify=notify
    )
    weights = backbone.weights(settings.scope)
    backbone.release()
    base = BaseCheck.of(weights, backbone.model_id)
    key = fingerprint(base, loss, settings)
    levels = find_levels(loss, weights, settings, state_dir and state_dir / key, notify)
    certificate, level = certify(
        loss,
        weights,
        levels,
        density=settings.density,
        samples=settings.held_out,
        seed=settings.seed,
        on_progress=lambda done, count: notify(Step("certificate", done, count)),
    )
    certificate["seconds"] = round(time.monotonic() - started, 1)
    member = Member(subject.identifier, subject.noun, embeddings)
    return Concept(levels, level, (member,), base, asdict(settings), certificate)


def loss_of(
    pipeline: Any,
    subject: Subject,
    settings: Settings,
    *,
    prior: Float[Tensor, "n 3 h w"] | None = None,
    cache_dir: Path | None = None,
    notify: Notify = lambda step: None,
) -> tuple[ImplantingLoss, dict[str, Tensor]]:
    """Prepare what a search of this subject lowers; registers its identifier.

    Returns:
        The loss of Eq. 4, and the embeddings of the identifier, by text encoder.
    """
    backbone = backbone_for(pipeline)
    prompts = None
    if prior is None:
        prior = drawn_prior(pipeline, subject.noun, settings, cache_dir, notify)
        prompts = prior_prompts(subject.noun, settings.prior_prompts, settings.prior_count)
    embeddings = backbone.register(subject.identifier)
    return implanting_loss(backbone, subject, prior, settings, prompts), embeddings


def drawn_prior(
    pipeline: Any, noun: str, settings: Settings, cache_dir: Path | None, notify: Notify
) -> Float[Tensor, "n 3 h w"]:
    """Let the untouched model draw the prior pictures of a noun, or find them in the cache."""
    return prior_set(
        pipeline,
        prior_prompts(noun, settings.prior_prompts, settings.prior_count),
        steps=settings.prior_steps,
        seed=settings.seed,
        cache_dir=cache_dir,
        on_progress=lambda done, count: notify(Step("prior", done, count)),
    )


def implanting_loss(
    backbone: Any,
    subject: Subject,
    prior: Float[Tensor, "n 3 h w"],
    settings: Settings,
    prompts: Sequence[str] | None = None,
) -> ImplantingLoss:
    """Put both halves of Eq. 4 together: ``a V* cat`` for the photos, ``a cat`` for the prior.

    ``prompts`` says of every prior picture what it shows, where that is more than ``a cat``.
    """
    return ImplantingLoss(
        backbone,
        examples(backbone, subject, flip=settings.flip),
        examples(backbone, prior, prompts or f"a {subject.noun}"),
        prior_weight=settings.prior_weight,
        weighting=settings.weighting,
        batch=settings.batch,
    )


def find_levels(
    loss: ImplantingLoss | JointLoss,
    weights: Mapping[str, Tensor],
    settings: Settings,
    state_dir: Path | None = None,
    notify: Notify = lambda step: None,
    *,
    within: ConceptMask | None = None,
) -> tuple[ConceptMask, ...]:
    """Run the rule of the settings and give its nested masks, sparse to dense."""
    target = settings.density or DENSITY
    densities = tuple(sorted({target, *(DENSITIES if settings.levels else ())}))
    question = Question(
        losses=lambda step: loss.at(step, seed=settings.seed),
        weights=weights,
        densities=densities,
        density=target,
        rivals=() if settings.density else tuple(d for d in DENSITIES if d > DENSITY),
        steps=settings.steps,
        refine_steps=settings.refine_steps,
        rate=settings.rate,
        guard=settings.guard,
        within=within,
        drain=lambda name, search: drain(name, search, state_dir, notify),
    )
    return RULES[settings.rule](question)


def drain(
    name: str,
    search: Callable[[SearchState | None], Generator],
    state_dir: Path | None,
    notify: Notify,
) -> tuple[Any, SearchState | None]:
    """Run one search to its end, resuming from and saving to ``state_dir``.

    Also saves when interrupted, so that Ctrl-C loses nothing.
    """
    path = state_dir and state_dir / f"{name}.safetensors"
    state = SearchState.load(path) if path and path.exists() else None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    running = search(state)

    def took(progress: Progress) -> None:
        nonlocal state
        state = progress.state
        notify(Step(name, progress.step, progress.steps, progress.loss))
        if path and (progress.step % SAVE_EVERY == 0 or progress.step == progress.steps):
            state.save(path)

    try:
        return run(running, took), state
    except BaseException:
        if path and state is not None:
            state.save(path)
        raise


def fingerprint(
    base: BaseCheck,
    loss: ImplantingLoss | JointLoss,
    settings: Settings,
    within: ConceptMask | None = None,
) -> str:
    """Name a search by all it depends on, so that only the same one is ever resumed."""
    digest = hashlib.sha256(f"{base.layout} {base.weights}".encode())
    digest.update(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update((within.digest if within is not None else "").encode())
    for each in getattr(loss, "losses", (loss,)):
        for pairs in (each.subject, each.prior):
            digest.update(_bytes(pairs))
    return digest.hexdigest()[:16]


def _bytes(pairs: Examples | None) -> bytes:
    if pairs is None:
        return b""
    tensors = [pairs.latents, *pairs.condition.values()]
    return b"".join(t.detach().cpu().float().numpy().tobytes() for t in tensors)
