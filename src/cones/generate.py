"""Draw pictures with concepts: shut or write their neurons, sample, put every bit back.

Picture ``i`` depends on ``seed + i`` alone (up to rounding, which differs by batch size), so the
untouched model, a concept and a control can be compared noise for noise.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any

import torch
from PIL import Image

from cones.backbones import backbone_for
from cones.base_check import BaseCheck, Verdict
from cones.concept import Concept, require_shut
from cones.errors import SearchError
from cones.intervention import Intervention
from cones.mask import ConceptMask

BATCH = 8
HEARD = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}


def prepare(pipeline: Any, concepts: Sequence[Concept]) -> ConceptMask | None:
    """Check the base model, register the identifiers and join the masks (Sec. 3.2).

    Returns:
        The union of the concepts' masks, or None without concepts.

    Raises:
        MaskError: A concept was found on another base model, or has values that a mask does not
            tell. Nothing has been changed then.
    """
    require_shut(concepts)
    if not concepts:
        return None
    _register(pipeline, concepts)
    return reduce(_join, [concept.mask for concept in concepts])


def edit(
    pipeline: Any, concepts: Sequence[Concept], *, strength: float = 1.0
) -> Intervention | None:
    """Do what :func:`prepare` does and say what is to be written there.

    Returns:
        The values of a single concept that has values, zeros otherwise; None without concepts.

    Raises:
        MaskError: A concept was found on another base model, or one of several has values.
            Nothing has been changed then.
    """
    if len(concepts) == 1:
        _register(pipeline, concepts)
        return concepts[0].intervention(strength)
    mask = prepare(pipeline, concepts)
    return None if mask is None else Intervention(mask, strength=strength)


def _register(pipeline: Any, concepts: Sequence[Concept]) -> None:
    verdicts(pipeline, concepts)
    backbone = backbone_for(pipeline)
    for concept in concepts:
        for member in concept.members:
            backbone.register(member.identifier, embeddings=member.embeddings or None)


def verdicts(pipeline: Any, concepts: Sequence[Concept]) -> list[Verdict]:
    """Say for every concept what the model is to it: ``"same"`` or ``"fine-tune"``.

    Raises:
        MaskError: A concept was found on another base model.
    """
    backbone = backbone_for(pipeline)
    live = backbone.weights("both")
    checks: dict[tuple[str, ...], BaseCheck] = {}  # hashing the weights takes 0.5 s at full size
    found = []
    for concept in concepts:
        names = tuple(n for n in concept.mask.shapes if n in live)
        if names not in checks:
            checks[names] = BaseCheck.of({n: live[n] for n in names}, backbone.model_id)
        found.append(concept.require_base(checks[names]))
    return found


def _join(a: ConceptMask, b: ConceptMask) -> ConceptMask:
    """Join two masks, also of different scopes (cross- and self-attention)."""
    shapes = {**a.shapes, **b.shapes}
    return a.widened(shapes) | b.widened(shapes)


def missing_identifiers(concepts: Sequence[Concept], prompts: Sequence[str]) -> list[str]:
    """List identifiers that no prompt mentions: their subjects will hardly appear."""
    members = [member.identifier for concept in concepts for member in concept.members]
    return [word for word in members if not any(word in prompt for prompt in prompts)]


def sample(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    steps: int = 50,
    guidance: float = 7.5,
    negative_prompt: str | None = None,
    on_step: Callable[..., dict] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Image.Image]:
    """Draw one picture per prompt and seed with the model as it is.

    Args:
        pipeline: Text-to-image pipeline.
        prompts: One per picture.
        seeds: One per picture; a picture depends on its own alone.
        steps: Steps of the pipeline's sampler.
        guidance: Scale of classifier-free guidance.
        negative_prompt: What to stay away from.
        on_step: Handed to the pipeline as ``callback_on_step_end``, with latents and prompt
            embeddings, such as :class:`cones.excite.Excite`.
        on_progress: Called with pictures done and their number.
    """
    if len(prompts) != len(seeds) or steps < 1:
        raise SearchError(
            f"found {len(prompts)} prompts, {len(seeds)} seeds, {steps} steps; expected a seed "
            "per prompt and at least one step"
        )
    images: list[Image.Image] = []
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    backbone = backbone_for(pipeline)
    backbone.recall()
    heard = {} if on_step is None else {"callback_on_step_end": on_step, **HEARD}
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        generators = [torch.Generator().manual_seed(s) for s in seeds[part]]
        result = pipeline(
            list(prompts[part]),
            negative_prompt=[negative_prompt] * len(generators) if negative_prompt else None,
            height=backbone.resolution,
            width=backbone.resolution,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            **heard,
        )
        images += result.images
        if on_progress:
            on_progress(len(images), len(prompts))
    pipeline.set_progress_bar_config(**before)
    return images


def generate(
    pipeline: Any,
    concepts: Sequence[Concept],
    prompt: str | Sequence[str],
    *,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 7.5,
    count: int = 4,
    strength: float = 1.0,
    negative_prompt: str | None = None,
    on_step: Callable[..., dict] | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Image.Image]:
    """Draw ``count`` pictures of every prompt with the concepts' neurons shut, or at their values.

    Args:
        pipeline: Text-to-image pipeline; its weights are as before afterwards, bit for bit.
        concepts: Concepts to join; none draws with the untouched model.
        prompt: One prompt or several, with the concepts' identifiers in them.
        seed: Of the first picture of each prompt; the others count on.
        steps: Steps of the pipeline's sampler.
        guidance: Scale of classifier-free guidance.
        count: Pictures per prompt.
        strength: 1 shuts or writes the values, less goes only part of the way there.
        negative_prompt: What to stay away from.
        on_step: As in :func:`sample`.
        on_progress: Called with pictures done and their number.

    Returns:
        The pictures, prompt by prompt.

    Raises:
        ConesError: Of the part concerned; the model is as before.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    edited = edit(pipeline, concepts, strength=strength)
    with ExitStack() as stack:
        if edited is not None:
            stack.enter_context(edited.applied(pipeline.unet))
        return sample(
            pipeline,
            [said for said in prompts for _ in range(count)],
            seeds=[seed + i for _ in prompts for i in range(count)],
            steps=steps,
            guidance=guidance,
            negative_prompt=negative_prompt,
            on_step=on_step,
            on_progress=on_progress,
        )
