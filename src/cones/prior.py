"""Prior pictures: other things of the subject's category (the pairs of Eq. 3).

They are drawn by the untouched model and kept on disk as PNGs, so a second search and an
interrupted one find them again. Each picture has its own seed: more pictures later extend the
same set. A folder of your own photographs does as well.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.backbones import backbone_for
from cones.errors import BackboneError, SubjectError
from cones.subject import Source, read_images

PRIOR_PROMPTS = ("noun", "scenes")
SCENES = (
    "a {}",
    "a {} in a street",
    "a {} at the seaside",
    "a {} in a meadow",
    "a {} in a lobby",
    "a {} on a plain background",
)
"""Where prior pictures show the category; none of these places is in an evaluation's prompts."""
_SAMPLED = 1024
Notify = Callable[[int, int], None]


def prior_images(
    pipeline: Any,
    *,
    noun: str | None = None,
    prompt: str | None = None,
    count: int = 200,
    seed: int = 0,
    guidance: float = 7.5,
    steps: int = 50,
    batch: int = 4,
    cache_dir: str | Path | None = None,
    on_progress: Notify | None = None,
) -> Float[Tensor, "n 3 size size"]:
    """Draw pictures of the category with the untouched model (x^pr of Eq. 3).

    Args:
        pipeline: Text-to-image pipeline.
        noun: Category; the prompt is then ``a <noun>``.
        prompt: In place of ``noun``.
        count: Number of pictures.
        seed: Picture ``i`` depends on this and on ``i``.
        guidance: Scale of classifier-free guidance.
        steps: Sampling steps.
        batch: Pictures drawn at once.
        cache_dir: Where to keep them, in a folder named after everything they depend on (the
            model's weights among it). ``None`` keeps nothing.
        on_progress: Called with the pictures done and their number.

    Raises:
        SubjectError: Neither or both of ``noun`` and ``prompt``, or nothing to draw.
        BackboneError: The pipeline's safety checker blackened pictures.
    """
    said = _prompt(noun, prompt)
    if count < 1 or batch < 1 or steps < 1:
        raise SubjectError(
            f"found count {count}, batch {batch}, steps {steps}; expected 1 or more; raise them"
        )
    backbone = backbone_for(pipeline)
    settings = {"guidance": guidance, "steps": steps, "seed": seed, "size": backbone.resolution}
    folder = None
    if cache_dir is not None:
        folder = Path(cache_dir) / prior_key(pipeline, said, settings)
        folder.mkdir(parents=True, exist_ok=True)
    pixels = {i: found for i in range(count) if (found := _cached(folder, i)) is not None}
    missing = [i for i in range(count) if i not in pixels]
    if missing:
        backbone.recall()
    for start in range(0, len(missing), batch):
        numbers = missing[start : start + batch]
        drawn = _drawn(pipeline, said, numbers, settings)
        for number, picture in zip(numbers, drawn, strict=True):
            _keep(folder, number, picture)
            pixels[number] = picture
        if on_progress is not None:
            on_progress(len(pixels), count)
    stacked = torch.from_numpy(np.stack([pixels[i] for i in range(count)]))
    return stacked.permute(0, 3, 1, 2).float() / 255


def prior_prompts(noun: str, kind: str, count: int) -> list[str]:
    """Give every prior picture its prompt: the category alone, or in the scenes in turn.

    Args:
        noun: Category.
        kind: One of :data:`PRIOR_PROMPTS`.
        count: Number of pictures.
    """
    scenes = SCENES if kind == "scenes" else SCENES[:1]
    return [scenes[number % len(scenes)].format(noun) for number in range(count)]


def prior_set(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    seed: int = 0,
    batch: int = 16,
    cache_dir: str | Path | None = None,
    on_progress: Notify | None = None,
) -> Float[Tensor, "n 3 size size"]:
    """Draw a prior picture of every prompt, as :func:`prior_images` draws those of one.

    The k-th picture of a prompt is the k-th of its own set, whatever other prompts there are.
    """
    pictures: list[Tensor | None] = [None] * len(prompts)
    notify = on_progress or (lambda done, count: None)
    for prompt in dict.fromkeys(prompts):
        places = [number for number, each in enumerate(prompts) if each == prompt]
        done = sum(picture is not None for picture in pictures)
        drawn = prior_images(
            pipeline,
            prompt=prompt,
            count=len(places),
            steps=steps,
            batch=batch,
            seed=seed,
            cache_dir=cache_dir,
            on_progress=lambda new, _, done=done: notify(done + new, len(prompts)),
        )
        for number, picture in zip(places, drawn, strict=True):
            pictures[number] = picture
    return torch.stack(pictures)


def prior_folder(source: Source, *, size: int) -> Float[Tensor, "n 3 size size"]:
    """Read prior pictures of your own; like :func:`read_images`, but up to 2,000."""
    return read_images(source, size=size, most=2000)


def prior_key(pipeline: Any, prompt: str, settings: dict[str, Any]) -> str:
    """Name a set of prior pictures by what it depends on: model, weights, prompt, settings."""
    backbone = backbone_for(pipeline)
    scheduler = sorted((k, str(v)) for k, v in dict(pipeline.scheduler.config).items())
    digest = hashlib.sha256()
    for part in (backbone.model_id, prompt, sorted(settings.items()), scheduler):
        digest.update(repr(part).encode() + b"\0")
    digest.update(type(pipeline.scheduler).__name__.encode())
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipeline, part, None)
        if module is not None:
            _hash_weights(digest, module)
    return digest.hexdigest()[:20]


def _hash_weights(digest: Any, module: torch.nn.Module) -> None:
    """Hash some entries and the sum of every parameter: enough to tell two models apart."""
    # Word embeddings grow when an identifier is registered; the pictures do not change.
    words = getattr(module, "get_input_embeddings", lambda: None)()
    skipped = None if words is None else words.weight
    for name, parameter in module.named_parameters():
        if parameter is skipped:
            continue
        flat = parameter.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLED)].float().cpu().numpy()
        total = float(flat.sum(dtype=torch.float64 if flat.device.type != "mps" else None))
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {total!r}".encode())
        digest.update(some.tobytes())


def _prompt(noun: str | None, prompt: str | None) -> str:
    given = [word for word in (noun, prompt) if word is not None and word.strip()]
    if len(given) != 1:
        raise SubjectError(
            f"found noun {noun!r} and prompt {prompt!r}; expected exactly one of them; "
            "pass noun='cat'"
        )
    return prompt if prompt is not None else f"a {noun}"


def _drawn(
    pipeline: Any, prompt: str, numbers: list[int], settings: dict[str, Any]
) -> list[np.ndarray]:
    generators = [
        torch.Generator().manual_seed(_picture_seed(settings["seed"], number))
        for number in numbers
    ]
    with _quiet(pipeline), torch.no_grad():
        result = pipeline(
            [prompt] * len(numbers),
            height=settings["size"],
            width=settings["size"],
            guidance_scale=settings["guidance"],
            num_inference_steps=settings["steps"],
            generator=generators,
            output_type="np",
        )
    flagged = getattr(result, "nsfw_content_detected", None) or []
    if any(flagged):
        raise BackboneError(
            f"found {sum(flagged)} of {len(numbers)} prior pictures blackened by the safety "
            "checker; expected pictures; load the pipeline without it, or give a folder"
        )
    return list((result.images * 255).round().clip(0, 255).astype(np.uint8))


def _picture_seed(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"prior/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def _quiet(pipeline: Any) -> Iterator[None]:
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.png"


def _cached(folder: Path | None, number: int) -> np.ndarray | None:
    if folder is None or not _file(folder, number).is_file():
        return None
    try:
        with Image.open(_file(folder, number)) as image:
            return np.asarray(image.convert("RGB")).copy()
    except (OSError, SyntaxError):  # damaged: draw it again
        return None


def _keep(folder: Path | None, number: int, picture: np.ndarray) -> None:
    if folder is None:
        return
    unfinished = folder / f".{number:05d}-{os.getpid()}.tmp"
    try:
        Image.fromarray(picture).save(unfinished, format="PNG")
        unfinished.replace(_file(folder, number))
    finally:
        unfinished.unlink(missing_ok=True)
