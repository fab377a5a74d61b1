"""Find the concept neurons of one subject or several: photos in, a concept out.

The one call behind ``cones find``: it draws what the untouched model knows, gives the subjects
their words, runs the rule of the settings, chooses a density where that is open, and certifies
the result on what the search never saw. The pipeline is as before afterwards, bit for bit.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cones.concept import Concept, Word
from cones.errors import SearchError, SubjectError
from cones.fingerprint import Fingerprint
from cones.mask import Mask
from cones.models import model_for
from cones.models.base import Model, Pipeline
from cones.models.sampling import sample
from cones.models.unet import computing, precision_of
from cones.models.words import spoken, vectors
from cones.search.certify import FAILED, GAINED, UNAVAILABLE, Evidence, certify, choose
from cones.search.loss import Examples, ImplantingLoss, examples
from cones.search.memory import CONTROLS, fitted, measured
from cones.search.prior import pictures, prior_prompts, unseen_prompts
from cones.search.resume import Keeper, Progress, owned, silent
from cones.search.rules import Found, candidates
from cones.search.select import nested
from cones.search.settings import JOINT_DENSITIES, Settings
from cones.search.spread import place
from cones.search.start import choose_start
from cones.subject import Source, Subject, read_pixels, with_article

LEVELS = (0.25, 0.5)  # sparser levels kept with a concept, as shares of its neurons
KEEP_FROM = 4  # photos, of which the last is then kept out
ROOM = 0.9  # of a union, at most: otherwise there would be nothing to choose
Case: TypeAlias = tuple[ImplantingLoss, Evidence]
Photos: TypeAlias = tuple[Examples, Examples | None]  # of the search, and kept out of it


def find(
    pipeline: Pipeline,
    photos: Source | Subject,
    *,
    noun: str | None = None,
    identifier: str = "V*",
    settings: Settings | None = None,
    others: Source | None = None,
    work: str | Path | None = None,
    progress: Progress | None = None,
    **changes: object,
) -> Concept:
    """Find a subject's concept neurons (Sec. 3.1, Appendix A.2) and certify them.

    Of four photos or more the last is kept out of the search, for the certificate. After a
    ConesError the pipeline is as before.

    Args:
        pipeline: A text-to-image pipeline of diffusers.
        photos: A folder, files, pictures, or a :class:`~cones.subject.Subject`.
        noun: What they show, such as ``cat``.
        identifier: The new word for it.
        settings: How to search.
        others: Photos of other individuals of the noun, for the certificate; drawn if None.
        work: Folder for the search's state and drawn pictures: the same call goes on there after
            an interruption. None keeps nothing.
        progress: Called as ``progress(stage, done, total, note)``.
        **changes: Fields of :class:`~cones.search.settings.Settings`, such as ``drift=0.02``.

    Example:
        >>> cat = find(pipeline, "photos/cat", noun="cat", work="work")  # doctest: +SKIP
    """
    settings = (settings or Settings()).changed(changes)
    if noun is None and not isinstance(photos, Subject):
        raise SubjectError("found photos without a noun; expected it; pass noun='cat'")
    model, named = model_for(pipeline), {"noun": str(noun), "identifier": identifier}
    if not isinstance(photos, Subject):
        photos = Subject.from_folder(photos, size=model.size, **named)
    return _Search(model, settings, work, progress or silent).run([photos], [others])


def find_jointly(
    pipeline: Pipeline,
    subjects: Sequence[Subject],
    *,
    within: Concept | None = None,
    settings: Settings | None = None,
    others: Sequence[Source | None] | None = None,
    work: str | Path | None = None,
    progress: Progress | None = None,
    **changes: object,
) -> Concept:
    """Find the neurons that serve several subjects, under the sum of their losses (Sec. 3.3).

    Takes what :func:`find` takes, with ``others`` for each subject. Within a concept such as
    ``cat | dog`` only its neurons are searched ("collaboratively capturing") and its words are
    kept; without one, all weights ("from scratch"). Unless a density is given, it is the paper's
    for as many subjects (Table 2), and at most nine tenths of ``within``.

    Raises:
        ConesError: As in :func:`find`, or an identifier is not one subject's own.
    """
    identifiers = [subject.identifier for subject in subjects]
    if len(set(identifiers)) < max(2, len(identifiers)):
        raise SearchError(
            f"found subjects {', '.join(identifiers) or 'none'}; expected two or more, each with "
            "an identifier of its own; name them V1* and V2*"
        )
    if settings is None and "density" not in changes:
        paper = JOINT_DENSITIES[min(len(subjects), len(JOINT_DENSITIES)) - 1]
        changes["density"] = min(paper, ROOM * within.density) if within else paper
    settings = (settings or Settings()).changed(changes)
    search = _Search(model_for(pipeline), settings, work, progress or silent, within)
    return search.run(subjects, others or [None] * len(subjects))


@dataclass(frozen=True, eq=False)
class _Search:
    """One search, from subjects to a concept."""

    model: Model
    settings: Settings
    work: str | Path | None
    progress: Progress
    within: Concept | None = None

    def run(self, subjects: Sequence[Subject], others: Sequence[Source | None]) -> Concept:
        """Draw, give words, encode, search, and put the concept together."""
        started, model, given = time.monotonic(), self.model, self.settings
        if model.module.dtype == torch.float16:
            raise SearchError(
                "found a model in float16, where most gradients of a search become 0; expected "
                "bfloat16 or float32; load it with dtype='bfloat16'"
            )
        base, cost = Fingerprint.of(model.weights(), model.name), measured(model, subjects[0].noun)
        about = len(subjects) * cost.of(given) / 1e15
        self.progress("estimate", 1, 1, f"about {about:.2g} PFLOP in all")
        drawn = [self._drawn(base, *each) for each in zip(subjects, others, strict=True)]
        photos = [self._photos(subject) for subject in subjects]
        words = [self._word(*each) for each in zip(subjects, photos, strict=True)]
        with spoken(model.pipeline, {word.identifier: word.embeddings for word in words}):
            cases = [self._case(*each) for each in zip(subjects, photos, drawn, strict=True)]
        within = self.within and self.within.mask
        record = {**given.recorded(), "precision": precision_of(model, given.precision)}
        record |= {} if within is None else {"within": within.digest}
        record |= {"loras": self.loras} if self.loras else {}
        shown = {each.identifier: case[1] for each, case in zip(subjects, cases, strict=True)}
        with (
            model.without_encoders(),
            self._keeper([base.weights, record], cases) as keeper,
            fitted(model, given, cost, self.progress) as (settings, weights),
        ):
            losses = [replace(loss, micro_batch=settings.micro_batch) for loss, _ in cases]
            limits = {"within": within, "keeper": keeper}
            with computing(model, str(record["precision"])):
                found = candidates(losses, weights, settings, **limits)
            levels, certificate = self._certified(found, settings, shown)
            keeper.forget()
        certificate["seconds"] = round(time.monotonic() - started, 1)
        return Concept(levels, tuple(words), base, record, certificate)

    @cached_property
    def loras(self) -> str:
        """Digest what LoRAs add to weights that stay as they are; empty without any."""
        networks = [p for p in self.model.pipeline.components.values() if isinstance(p, nn.Module)]
        parts = [p for each in networks for p in each.modules() if hasattr(p, "lora_A")]
        values = (v for p in parts for n, v in p.named_parameters() if n.startswith("lora_"))
        return _digest([(p.active_adapters, p.scaling) for p in parts], *values) if parts else ""

    def _drawn(
        self, base: Fingerprint, subject: Subject, others: Source | None
    ) -> tuple[list[str], Tensor, Tensor]:
        """Let the untouched model draw, before it knows the word.

        Returns:
            Prompts and pictures of the prior and then of unrelated things; other individuals.
        """
        given, size, noun, said = self.settings, self.model.size, subject.noun, []
        if given.prior != "none":
            said = prior_prompts(noun, given.prior_count, plain=given.prior == "drawn")
        said += unseen_prompts(noun, CONTROLS)
        how = {"num_inference_steps": given.prior_steps, "guidance_scale": given.prior_guidance}
        key = _digest(base.weights, how, size, self.loras)
        found = pictures(
            partial(sample, self.model.pipeline, **how),
            said + [with_article(noun)] * (0 if others else CONTROLS),
            seed=given.seed,
            size=size,
            folder=Path(self.work) / "pictures" / key if self.work else None,
            progress=self.progress,
        )
        cut = len(said)
        return said, found[:cut], read_pixels(others, size=size) if others else found[cut:]

    def _photos(self, subject: Subject) -> Photos:
        """Encode the photos of the search, and the one kept out of it, under the plain noun."""

        def encoded(rows: slice) -> Examples:
            masks, called = subject.masks, with_article(subject.noun)
            how = {"masks": None if masks is None else masks[rows], "flip": self.settings.flip}
            return examples(self.model, subject.pixels[rows], called, **how)

        kept = len(subject) >= KEEP_FROM
        return encoded(slice(len(subject) - kept)), encoded(slice(-1, None)) if kept else None

    def _word(self, subject: Subject, photos: Photos) -> Word:
        """Let the identifier start from the word that fits the photos of the search best."""
        for word in self.within.words if self.within else ():
            if word.identifier == subject.identifier:
                return word
        named, (seen, _) = subject.identifier, photos
        latents = seen.latents[: len(seen) // (1 + self.settings.flip)]  # mirrored ones come last
        start = choose_start(self.model, latents, subject.noun, identifier=named)
        rows = vectors(self.model.pipeline, start.word)
        note = f"{named} starts as {start.word!r}, which moves predictions {start.response:.1%}"
        self.progress("identifier", 1, 1, f"{note} and lowers the error {start.gain:.1%}")
        return Word(named, subject.noun, {n: r.cpu() for n, r in rows.items()})

    def _case(
        self, subject: Subject, photos: Photos, drawn: tuple[list[str], Tensor, Tensor]
    ) -> Case:
        """Encode what is searched on, and what is measured on."""
        (seen, kept), (said, pixels, others), given = photos, drawn, self.settings
        cut, encode = len(said) - CONTROLS, partial(examples, self.model)
        shown, noun = kept or seen, encode(others, with_article(subject.noun))

        def called(pairs: Examples) -> Examples:
            return replace(pairs, condition=self.model.condition([subject.prompt] * len(pairs)))

        loss = ImplantingLoss(
            self.model,
            called(seen),
            encode(pixels[:cut], said[:cut]) if cut else None,
            against="data" if given.prior == "drawn" else "untouched",
            batch=given.batch,
            prior_batch=given.prior_batch if cut else None,
            weighting=given.weighting,
        )
        unrelated = encode(pixels[cut:], said[cut:])
        evidence = Evidence(called(shown), kept is not None, shown, called(noun), noun, unrelated)
        return loss, evidence

    def _keeper(
        self, parts: Sequence[object], cases: Sequence[Case]
    ) -> AbstractContextManager[Keeper]:
        """Keep the search in a folder named by all it depends on: only the same one goes on."""
        if not self.work:
            return nullcontext(Keeper(None, self.progress))
        encoded = [pairs for loss, _ in cases for pairs in (loss.subject, loss.prior) if pairs]
        tensors = [each for p in encoded for each in (p.latents, p.masks, *p.condition.values())]
        folder = Path(self.work) / "search" / _digest(*parts, *tensors)
        self.progress("search", 0, 1, f"kept in {folder}")
        if place()[0]:  # the first process of a launch saves for all
            return nullcontext(Keeper(folder, self.progress, saves=False))
        return owned(folder, self.progress)

    def _certified(
        self, found: Sequence[Found], settings: Settings, shown: Mapping[str, Evidence]
    ) -> tuple[tuple[Mask, ...], dict[str, object]]:
        """Choose among what was found, certify it, and cut its levels."""
        best, extra, model = 0, dict[str, object](), self.model
        if len(found) > 1:
            masks, lam = [mask for mask, _, _ in found], found[-1][2]
            chosen = choose(model, settings, masks, [*shown.values()], prior_weight=lam)
            best, extra["line_search"] = chosen
        mask, score, lam = found[best]
        if settings.prior != "none":
            extra["prior_weight"] = lam
        measure = partial(certify, model, settings, mask, progress=self.progress)
        each = {name: measure(evidence) for name, evidence in shown.items()}
        verdicts = [certificate["verdict"] for certificate in each.values()]
        worst = next((v for v in (FAILED, UNAVAILABLE) if v in verdicts), GAINED)
        certificate = each if len(each) > 1 else next(iter(each.values()))
        return nested(score, mask, LEVELS), {**certificate, "verdict": worst, **extra}


def _digest(*parts: object) -> str:
    """Digest values and tensors."""
    sha = hashlib.sha256()
    for part in parts:
        tensor = isinstance(part, Tensor)
        sha.update(part.detach().float().cpu().numpy().tobytes() if tensor else str(part).encode())
    return sha.hexdigest()[:16]
