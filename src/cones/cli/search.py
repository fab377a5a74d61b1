"""``cones find``: photos in, concept file out."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from cones.cli import options, places, screen
from cones.errors import ConesError

ROWS = ("untouched", "random", "union", "shut")
LOSSES = ("subject", "prior", "loss")


@screen.guarded
def find(
    images: options.Photos,
    noun: options.Noun,
    output: options.File,
    identifier: options.Identifier = "V*",
    model: options.Model = None,
    density: options.Target = None,
    rule: options.Rule = None,
    scope: options.Scope = None,
    steps: options.Gradients = None,
    prior: options.Prior = None,
    more: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Find the concept neurons of the subject in your photos.

    The file it writes holds positions only, some hundred kilobytes for Stable Diffusion, and a
    certificate: the loss on samples that the search did not use, untouched, shut, and with a
    random mask. Ctrl-C loses nothing: the same command goes on where it stopped.

    **Example:**  cones find photos/ --noun cat -o cat.safetensors
    """
    given = {"density": density, "rule": rule, "scope": scope, "steps": steps, "seed": seed}
    settings = settings_of(given, more or [])
    places.require_file(output, overwrite=overwrite)
    warn_unknown(noun, model)
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    subject = read_subject(pipeline, images, noun, identifier)
    concept = _found(pipeline, subject, output, settings, prior)
    _report(concept, output, as_json=as_json)


def settings_of(given: dict[str, Any], more: list[str]) -> Any:
    """Build the settings from options and ``--set name=value``.

    Raises:
        ConesError: There is no such setting, or the value is not of its kind.
    """
    from cones.find import Settings

    known = {field.name: field for field in fields(Settings)}
    chosen = {name: value for name, value in given.items() if value is not None}
    for text in more:
        name, _, value = text.partition("=")
        if name not in known:
            raise ConesError(
                f"found --set {text!r}; expected one of {', '.join(sorted(known))}; "
                "write --set name=value"
            )
        chosen[name] = _value(text, value, known[name].type)
    return Settings(**chosen)


def _value(text: str, value: str, kind: Any) -> Any:
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    if isinstance(found, int) and not isinstance(found, bool) and not isinstance(found, kind):
        found = float(found)
    if not isinstance(found, kind):
        raise ConesError(
            f"found --set {text!r}; expected a value of type {getattr(kind, '__name__', kind)}; "
            "write --set name=value, with true, false and null for switches"
        )
    return found


def read_subject(pipeline: Any, images: list[Path], noun: str, identifier: str) -> Any:
    """Read photos at the size of the model."""
    from cones.backbones import backbone_for
    from cones.subject import Subject

    source = images[0] if len(images) == 1 else images
    size = backbone_for(pipeline).resolution
    return Subject.from_folder(source, noun=noun, identifier=identifier, size=size)


def _found(pipeline: Any, subject: Any, output: Path, settings: Any, prior: Path | None) -> Any:
    """Search one subject."""
    from cones.backbones import backbone_for
    from cones.find import find as find_concept
    from cones.prior import prior_folder

    size = backbone_for(pipeline).resolution
    given = None if prior is None else prior_folder(prior, size=size)
    return kept(output, find_concept, pipeline, subject, settings=settings, prior=given)


def kept(output: Path, search: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run a search with bars, save its concept, and clear away what resuming would have needed."""
    from cones.concept_file import save

    state = output.with_name(f"{output.name}.part")
    hint = f"the search so far is kept in {state}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        concept = search(
            *args,
            **options,
            cache_dir=places.cache_folder(),
            state_dir=state,
            on_progress=lambda s: notify(s.stage, s.step, s.steps, s.loss),
        )
    save(concept, output)
    shutil.rmtree(state, ignore_errors=True)
    return concept


def warn_unknown(noun: str, model: str | None) -> None:
    """Say so when the built-in model never saw the noun."""
    from cones.mini.world import NOUNS

    known = {*NOUNS, *(other for others in NOUNS.values() for other in others)}
    if model is None and noun not in known:
        screen.warn(
            f"the built-in model has never seen {noun!r}; it knows {', '.join(NOUNS)}; "
            "choose the nearest or another --model"
        )


def warn_raised(certificate: dict[str, Any]) -> None:
    """Say loudly that a mask does harm."""
    if certificate.get("raises_loss"):
        screen.warn(
            "shutting these neurons RAISES the loss on held-out samples; expected it to fall; "
            "do not use this file; try more --steps, a lower --density or --rule refine"
        )


def _report(concept: Any, output: Path, *, as_json: bool) -> None:
    certificate = dict(concept.certificate)
    size = output.stat().st_size
    warn_raised(certificate)
    if as_json:
        found = {"file": str(output), "bytes": size, "neurons": len(concept.mask)}
        found |= {"density": concept.mask.density, "settings": dict(concept.settings)}
        screen.emit({**found, "certificate": certificate})
        return
    screen.tell(
        f"{output}: {len(concept.mask):,} concept neurons of a {concept.noun}, "
        f"{concept.mask.density:.2%} of the K/V weights, {size / 1000:.1f} kB"
    )
    for line in certificate_lines(certificate):
        screen.tell(line)
    word = f"a {concept.identifier} {concept.noun}"
    screen.tell(f'next:  cones generate -c {output} "{word} in the snow" -o out/')


def certificate_lines(certificate: dict[str, Any]) -> list[str]:
    """Say what was measured, one line per mask; nothing for a combined concept."""
    return [
        f"  {row:<10} held-out loss  "
        + "  ".join(f"{name} {certificate[row][name]:.4f}" for name in LOSSES)
        for row in ROWS
        if row in certificate
    ]
